from configs import base


def get_config():
    config = base.get_config()
    config.model = base.conv()
    config.data.name = "mnist"
    config.num_epochs = 40.0
    config.batch_size = 64
    config.optimizer.learning_rate = 1e-2
    config.optimizer.warmup_steps = 500  # without it the single-channel relu layers die
    config.xla = False
    return config
