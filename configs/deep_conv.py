from configs import base


def get_config():
    config = base.get_config()
    config.model = base.deep_conv()
    config.data.name = "mnist"
    config.num_epochs = 50.0
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 200
    config.xla = False
    config.steps_per_call = 20
    return config
