from configs import base


def get_config():
    config = base.get_config()
    config.model = base.dense()
    config.model.code_size = 30
    config.model.hidden_units = (1000, 500, 250)
    config.data.name = "mnist"
    config.num_epochs = 60.0
    config.steps_per_call = 50
    return config
