"""Whatever an export is handed, it computes what it should, or raises."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tests.all_configs import settings_of
from tests.hostile.corpus import few_or_many, try_many
from trainer import models
from trainer.run.error_reference import ErrorReference
from trainer.serving import plain_keras, saved_model

CODE = 3
ROWS = st.integers(0, 3)
SIDES = st.lists(st.sampled_from([0, 1, 3, 4, 5]), max_size=4)
TYPES = ["uint8", "int8", "int32", "int64", "float32", "float64", "bool", "complex64", "str"]
REFUSALS = (TypeError, ValueError, tf.errors.InvalidArgumentError)


@pytest.mark.parametrize(("shape", "dtype"), [((5, 4, 1), "uint8"), ((5,), "float32")])
@few_or_many(600)
def test_a_signature_takes_what_it_says_and_raises_at_all_else(tmp_path, shape, dtype, examples):
    model = models.create(shape, settings_of("dense", code_size=CODE, hidden_units=(4,)))
    networks = plain_keras.encoder(model, None, dtype), plain_keras.decoder(model, None)
    nothing = ErrorReference(None, None, None, None, None, is_stale=False)
    scores = saved_model.Scores(plain_keras.residuals(model, None, networks[0]), nothing)
    saved_model.write(tmp_path / "saved_model", *networks, model, 0, scores)
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    functions = {name: loaded.signatures[name] for name in loaded.signatures}
    for given in ({}, {"x": tf.zeros((1, 5))}):  # no argument, or one of another name
        with pytest.raises(TypeError):
            functions["encode"](**given)

    right = st.tuples(ROWS.map(lambda rows: (rows, *shape)), st.just(dtype))
    right_codes = st.tuples(ROWS.map(lambda rows: (rows, CODE)), st.just("float32"))
    any_shape = SIDES.map(tuple) | ROWS.map(lambda rows: (rows, *shape))
    anything = right | right_codes | st.tuples(any_shape, st.sampled_from(TYPES))
    takes = {"encode": (shape, dtype), "decode": ((CODE,), "float32")}
    takes["reconstruct"] = takes["encode"]

    def meet(drawn):
        name, (given, kind), filler = drawn
        wanted, its_type = takes[name]
        tensor = tf.constant(np.full(given, filler).astype(kind))
        (argument,) = functions[name].structured_input_signature[1]
        fits = given[1:] == wanted and len(given) == len(wanted) + 1 and kind == its_type
        if not fits:
            with pytest.raises(REFUSALS):
                functions[name](**{argument: tensor})
            return
        (result,) = functions[name](**{argument: tensor}).values()
        assert result.shape == (given[0], *((CODE,) if name == "encode" else shape))
        assert np.isfinite(result).all() or not np.isfinite(filler)

    fillers = st.sampled_from([0, 1, 255, -1, 0.5, 1e30, float("nan"), float("inf")])
    with np.errstate(all="ignore"):
        try_many(examples, st.tuples(st.sampled_from(sorted(takes)), anything, fillers), meet)
