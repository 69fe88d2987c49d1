"""The checkpoint that is probed: its weights as they are, its AdamW state or one built for it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import small
from groupmates.errors import UserError
from groupmates.models import language_model as lm
from groupmates.models.checkpoint import open_base
from groupmates.models.tokenizer import load_tokenizer, train_tokenizer
from groupmates.stages import base

OPTIMIZER = "optimizer.safetensors"


def made(run, output, **changed):
    base.run(
        small.base_settings(**changed),
        tokenizer=run.tokenizer,
        training_pool=run.training_pool,
        output=output,
    )
    return output


@pytest.fixture
def checkpoint(small_run, tmp_path):
    """A checkpoint of a user, without AdamW state."""
    rows = len(load_tokenizer(small_run.tokenizer))
    small.tiny_lm(small.NEOX, rows, seed=3).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def steps_of(folder) -> set[float]:
    return {float(t) for name, t in load_file(folder / OPTIMIZER).items() if name.endswith(".step")}


def same_weights(a, b) -> bool:
    first, second = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_a_model_from_scratch_is_under_way(small_run):
    assert steps_of(small_run.base) == {5.0}
    moments = [t for n, t in load_file(small_run.base / OPTIMIZER).items() if "exp_avg" in n]
    assert all(t.abs().sum() > 0 for t in moments)


def test_a_base_opens_as_it_was_written(small_run):
    model, optimizer, hyper = open_base(small_run.base)
    assert hyper == small.ADAMW
    assert model.training
    assert [g["lr"] for g in optimizer.param_groups] == [1e-2, 1e-2]
    assert optimizer.state[model.get_output_embeddings().weight]["step"] == 5


def test_without_adamw_state_moments_are_built_and_weights_stay_bit_by_bit(
    small_run, tmp_path, checkpoint, capsys
):
    output = made(small_run, tmp_path / "base", checkpoint=str(checkpoint))
    assert "WARNING" in (told := capsys.readouterr().err)
    assert str(checkpoint / OPTIMIZER) in told
    assert same_weights(checkpoint, output)
    assert steps_of(output) == {3.0}
    moments = {n: t for n, t in load_file(output / OPTIMIZER).items() if "exp_avg_sq" in n}
    assert all(t.sum() > 0 for t in moments.values())


def test_built_moments_are_those_of_gradients_at_the_checkpoint(small_run, tmp_path, checkpoint):
    settings = small.base_settings(checkpoint=str(checkpoint), optimizer_warmup_steps=1)
    output = made(
        small_run, tmp_path / "base", checkpoint=str(checkpoint), optimizer_warmup_steps=1
    )
    model = lm.load_lm(checkpoint)
    ids = next(base.batches(settings, small_run.training_pool))
    optimizer = lm.make_optimizer(model, small.ADAMW)
    lm.train_step(model, optimizer, ids, 1.0, 1e-4)
    weight = model.get_output_embeddings().weight
    saved = load_file(output / OPTIMIZER)["lm_head.weight.exp_avg"]
    assert torch.allclose(saved, optimizer.state[weight]["exp_avg"], atol=1e-7)


def test_the_checkpoints_adamw_state_is_taken_as_it_is(small_run, tmp_path, capsys):
    output = made(small_run, tmp_path / "base", checkpoint=str(small_run.base))
    assert "WARNING" not in capsys.readouterr().err
    assert (output / OPTIMIZER).read_bytes() == (small_run.base / OPTIMIZER).read_bytes()
    assert same_weights(output, small_run.base)


def test_the_checkpoints_own_training_settings_win_over_the_configuration(
    small_run, tmp_path, checkpoint
):
    own = small.ADAMW.model_copy(update={"learning_rate": 0.5, "beta1": 0.8})
    (checkpoint / "training.json").write_text(json.dumps({"optimizer": own.model_dump()}))
    output = made(small_run, tmp_path / "base", checkpoint=str(checkpoint))
    assert open_base(output)[2] == own


def test_moments_are_built_with_the_checkpoints_own_clipping(small_run, tmp_path, checkpoint):
    # Found here once: betas came from training.json, clip_norm and z_loss from config.yaml.
    own = small.ADAMW.model_copy(update={"clip_norm": 1e-3})
    (checkpoint / "training.json").write_text(json.dumps({"optimizer": own.model_dump()}))
    output = made(small_run, tmp_path / "base", checkpoint=str(checkpoint))
    moments = [t for n, t in load_file(output / OPTIMIZER).items() if n.endswith("exp_avg")]
    assert 0 < float(sum(t.square().sum() for t in moments)) ** 0.5 < 1e-3


def test_without_training_settings_those_of_the_configuration_are_taken(
    small_run, tmp_path, checkpoint, capsys
):
    output = made(small_run, tmp_path / "base", checkpoint=str(checkpoint))
    assert "base.optimizer" in capsys.readouterr().err
    assert open_base(output)[2] == small.ADAMW


def test_damaged_training_settings_are_refused(small_run, tmp_path, checkpoint):
    (checkpoint / "training.json").write_text('{"optimizer": {"learning_rate": 0.1}}')
    with pytest.raises(UserError, match="beta1") as caught:
        made(small_run, tmp_path / "base", checkpoint=str(checkpoint))
    assert caught.value.where == str(checkpoint / "training.json")
    assert not (tmp_path / "base").exists()


def test_a_tokenizer_that_does_not_fit_the_checkpoint_is_refused(small_run, tmp_path):
    small.tiny_lm(vocabulary=50).save_pretrained(tmp_path / "checkpoint")
    with pytest.raises(UserError, match="token ids below 50") as caught:
        made(small_run, tmp_path / "base", checkpoint=str(tmp_path / "checkpoint"))
    assert "sample.tokenizer" in caught.value.todo


def test_too_little_training_text_says_what_to_change(small_run, tmp_path):
    with pytest.raises(UserError, match="at least 500 sequences") as caught:
        made(small_run, tmp_path / "base", batch_sequences=500)
    assert "sample.training_documents" in caught.value.todo


def test_batches_pass_over_every_document_before_any_comes_again(small_run):
    settings = small.base_settings(batch_sequences=1)
    stream = base.batches(settings, small_run.training_pool)
    windows = [next(stream)[0].tolist() for _ in range(8)]
    assert all(len(w) == small.SEQUENCE + 1 for w in windows)
    assert len({tuple(w) for w in windows}) == 8


# What is wrong with a checkpoint


def test_a_tokenizer_with_other_ids_than_the_checkpoint_s_own_is_refused(
    small_run, tmp_path, checkpoint
):
    own = train_tokenizer([d["text"] for d in small.documents(5)], 300)
    own.save_pretrained(checkpoint)
    with pytest.raises(UserError, match=r"sample\.tokenizer") as caught:
        made(small_run, tmp_path / "base", checkpoint=str(checkpoint))
    assert caught.value.where == str(small_run.tokenizer)
    given = load_tokenizer(small_run.tokenizer).get_vocab()
    token = min(
        (t for t, i in own.get_vocab().items() if given.get(t, i) != i), key=given.__getitem__
    )
    assert f"{own.get_vocab()[token]} for {token!r}" in caught.value.expected
    assert caught.value.found.startswith(f"{given[token]}, and ")


def test_the_checkpoint_s_own_tokenizer_fits_with_tokens_added_to_it(
    small_run, tmp_path, checkpoint
):
    load_tokenizer(small_run.tokenizer).save_pretrained(checkpoint)
    made(small_run, tmp_path / "base", checkpoint=str(checkpoint))
    more = load_tokenizer(small_run.tokenizer)
    more.add_tokens(["<|more|>"])
    more.save_pretrained(tmp_path / "more")
    base.check_tokenizer(checkpoint, more, tmp_path / "more")


def test_a_checkpoint_with_weights_that_are_no_numbers_is_named_with_the_tensor(
    small_run, tmp_path, checkpoint
):
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    weights["embed_out.weight"][3, 1] = float("inf")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"finite weights of the checkpoint") as caught:
        made(small_run, tmp_path / "base", checkpoint=str(checkpoint))
    assert (caught.value.where, caught.value.found) == (
        str(checkpoint),
        "nan or inf in lm_head.weight",  # as transformers calls it
    )


def test_a_training_that_breaks_is_told_and_writes_nothing(small_run, tmp_path):
    hyper = small.ADAMW.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(UserError, match=r"base\.optimizer\.learning_rate") as caught:
        made(small_run, tmp_path / "base", optimizer=hyper)
    assert caught.value.expected == "a finite loss in every step"
    assert caught.value.where == "base, step 3 of 5"
    assert str(small_run.training_pool) in caught.value.todo
    assert list(tmp_path.iterdir()) == []
