from configs import base


def get_config():
    config = base.get_config()
    config.model = base.dense()
    config.data.name = "mnist"
    config.num_epochs = 60.0
    config.optimizer.learning_rate = 2e-3
    return config
