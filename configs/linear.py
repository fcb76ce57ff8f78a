from configs import base


def get_config():
    config = base.get_config()
    config.model = base.linear()
    config.data.name = "mnist"
    config.num_epochs = 100.0
    config.batch_size = 1024
    config.optimizer.learning_rate = 3e-3
    return config
