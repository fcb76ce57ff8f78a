"""Every key of a run, commented once. A config takes `get_config()` and edits it.

When a run is started again, its length may change (`num_epochs`; a cosine schedule then falls to 0
at the new last step), and so may where its data lie, its `strategy` and all from `profile` on: what
it does about loss spikes, and its cadence. Everything else is the run.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # of the weights, the order of the examples and the noise
    config.model = dense()  # of a kind: one of the functions below

    config.data = ConfigDict()
    config.data.name = "digits"  # or of TFDS, images:DIR, table:FILE, arrays:FILE: docs/data.md
    config.data.image_size = 0  # resizes images to a square of this many pixels; 0: as they are
    config.data.fit = "stretch"  # of a folder's to that square: stretch, crop (its middle), pad
    config.data.channels = 0  # of a folder's images: 1 grey, 3 colour; 0: as they all are
    config.data.cache_dir = ""  # where these are kept decoded; "": in DIR/.decoded
    config.data.label_column = ""  # of a table, integers or words; "": no labels
    config.data.drop_columns = ""  # of a table, left out: names with commas between
    config.data.impute = ""  # a table's missing numbers: mean, median in training; "": refused
    config.data.validation_fraction = 0.05  # of the training images, held out from training
    config.data.resplit_test = 0.0  # not 0: the test images alone, this share of them to test
    config.data.placement = "auto"  # of the training images: device, host, records; or what fits
    config.data.memory_gib = 0.0  # of the host, for images; 0: most of what is free
    config.data.standardise = False  # features of vectors, by mean and deviation in training
    config.data.binarise = False  # pixels drawn once for all; a vae's static binarisation

    config.num_epochs = 10.0  # passes over the training images
    config.batch_size = 128  # images a step, over all replicas together
    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"  # adam, adamw, sgd, rmsprop, adadelta
    config.optimizer.learning_rate = 1e-3  # the highest of the schedule
    config.optimizer.schedule = "cosine"  # constant, or cosine down to 0 at the last step
    config.optimizer.warmup_steps = 0  # of linear rise from 0 before the schedule
    config.optimizer.clip_norm = 0.0  # the global gradient norm is cut to this; 0: not cut
    config.optimizer.weight_decay = 0.0  # decoupled from the gradient, times the learning rate

    config.strategy = "auto"  # all workers' GPUs, or CPUs; mirrored, multi_worker; cpu:N, N logical
    config.startup_timeout_seconds = 300.0  # that several workers wait for each other at the start
    config.precision = "float32"  # or tensorfloat32 (on GPUs), bfloat16, float16 (loss-scaled)
    config.execution = "auto"  # graph, xla_update, xla, xla_products; auto; measure (times them)
    config.deterministic = True  # the same bits each time; on a GPU at some cost of speed

    config.profile = ""  # "100:120" traces these steps for TensorBoard's profiler
    config.spikes = ConfigDict()
    config.spikes.loss_ratio = 0.0  # times the running mean, above which it rolls back; 0: never
    config.spikes.skip_steps = 10  # left out then, the last of them the spike
    config.spikes.max_rollbacks = 10  # after which the next spike ends the run
    config.steps_per_call = 0  # steps run without the host in between; 0: for half a second
    config.log_every_steps = 100  # a line, metrics.jsonl, TensorBoard's scalars
    config.validate_every_steps = 1000  # losses, picture, checkpoint; 0: only at the end
    config.checkpoint_every_steps = 1000  # 0: only when validated, and when stopped
    config.keep_checkpoints = 3  # the newest ones; the best on validation is kept besides
    config.histograms = False  # of the weights, to TensorBoard at each validation
    config.pictures = True  # of reconstructions, likewise; both ever less often after 127 of them
    config.quiet = False  # no lines and no bar on the console
    return config.lock()


def linear() -> ConfigDict:
    return _kind("linear", "code_size")


def dense() -> ConfigDict:
    return _kind("dense", "code_size", "hidden_units", "code_activation", *_NONLINEAR)


def conv() -> ConfigDict:
    model = _kind("conv", "filters", "code_channels", "code_activation", *_NONLINEAR)
    model.code_activation = "relu"
    return model


def deep_conv() -> ConfigDict:
    model = _kind("deep_conv", "code_size", "stage_filters", "dense_units", *_NONLINEAR)
    model.code_size = 49
    return model


def denoising() -> ConfigDict:
    keys = ("network", "layer_sizes", "corruption", "corruption_level", "code_activation")
    return _kind("denoising", *keys, *_NONLINEAR)


def contractive() -> ConfigDict:
    keys = ("code_size", "hidden_units", "code_activation", "tied_weights")
    return _kind("contractive", *keys, "penalty_weight", "jacobian", "probes", *_NONLINEAR)


def sparse() -> ConfigDict:
    model = _kind(
        "sparse",
        *("code_size", "hidden_units", "code_activation", "tied_weights"),
        *("sparsity", "active_units", "first_active_units", "annealing_share", "alpha"),
        *("target_rate", "penalty_weight"),
        *_NONLINEAR,
    )
    model.code_size = 1000
    model.hidden_units = ()
    return model


def concrete() -> ConfigDict:
    model = _kind(
        "concrete",
        *("code_size", "hidden_units", "first_temperature", "last_temperature"),
        *("settled_share", "stop_when_settled", "selector_rate", "images_per_draw"),
        *_NONLINEAR,
    )
    model.code_size = 50
    model.hidden_units = (75,)
    model.activation = "leaky_relu"
    model.output_activation = "linear"
    return model


def vae() -> ConfigDict:
    model = _kind(
        "vae",
        *("code_size", *_NETWORK, "activation"),
        *("likelihood", "standard_deviation", "binarisation"),
        *("objective", "samples", "beta", "beta_warmup_share", "nll_samples"),
    )
    model.code_size = 50
    model.hidden_units = (200, 200)
    model.activation = "tanh"
    return model


_NETWORK = ("network", "hidden_units", "stage_filters", "dense_units")
_NONLINEAR = ("activation", "loss", "output_activation")


def _kind(name: str, *keys: str) -> ConfigDict:
    """The keys that one kind takes, of those of all kinds."""
    model = ConfigDict()
    model.name = name  # the module in trainer/models
    model.code_size = 32  # numbers in the code
    model.hidden_units = (128, 64)  # dense layers, mirrored in the decoder (concrete: only there)
    model.filters = 16  # channels of the article's wide convolutions
    model.code_channels = 1  # the code is ceil(H/4) x ceil(W/4) of these
    model.stage_filters = (32, 64)  # channels of the two convolutions of stride 2
    model.dense_units = 512  # of the dense layer between these and the code
    model.network = "dense"  # dense or conv, where a kind takes both
    model.layer_sizes = (128, 64, 32)  # of such an encoder, the code last: units, or channels
    model.corruption = "gaussian"  # masking, salt_and_pepper, gaussian (images: cut to [0, 1])
    model.corruption_level = 0.4  # share of the pixels changed, or the standard deviation
    model.tied_weights = False  # the decoder has the encoder's kernels, transposed
    model.penalty_weight = 1e-4  # in the loss, of ||J||^2 of the encoder, or of kl or l1
    model.jacobian = "exact"  # closed_form (one sigmoid layer), exact, hutchinson (estimated)
    model.probes = 1  # random vectors an image, by which hutchinson estimates
    model.sparsity = "k_sparse"  # k_sparse (keeps the largest), kl (of the units' means), l1
    model.active_units = 25  # that k_sparse keeps in each code
    model.first_active_units = 100  # that it keeps at step 0
    model.annealing_share = 0.5  # of the training, in which it falls from these to those
    model.alpha = 1.0  # times active_units are kept at test time
    model.target_rate = 0.1  # of each unit's mean activation over a batch, for kl
    model.first_temperature = 10.0  # of the selectors' softmax, at step 0
    model.last_temperature = 0.01  # that it falls to, exponentially
    model.settled_share = 0.1  # of the training, the last, in which each selector has its one pixel
    model.stop_when_settled = False  # at a validation: mean largest selector probability > .998
    model.selector_rate = 10.0  # of the selectors' logits, times adam's rate (of sgd: its square)
    model.images_per_draw = 16  # images in a row that share a draw of the selectors' noise
    model.activation = "relu"  # of the hidden layers, by its name in keras.activations
    model.code_activation = "linear"  # of the code layer, likewise
    model.loss = "mse"  # mse, or bce (nats); both are means over the pixels
    model.output_activation = "sigmoid"  # linear, sigmoid
    model.likelihood = "bernoulli"  # of the pixels; or gaussian, which takes binarisation none
    model.standard_deviation = 0.1  # of the gaussian likelihood; the pixels' range is 1
    model.binarisation = "dynamic"  # drawn anew each time; static: data.binarise's; none: grey
    model.objective = "elbo"  # elbo, or iwae, the tighter bound by importance weights
    model.samples = 1  # of the code, drawn for each image in the objective
    model.beta = 1.0  # weight of the KL divergence in the elbo; at 1 it bounds log p(x)
    model.beta_warmup_share = 0.0  # of the training, in which beta rises linearly from 0
    model.nll_samples = 5000  # of the code, by which trainer.evaluate estimates log p(x)
    return ConfigDict({key: model[key] for key in ("name", *keys)}).lock()
