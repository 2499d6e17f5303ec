"""Training: the loss falls, the same seed gives the same weights, and a run that was cut off goes on as if it had not been.

The model is a BERT of two narrow layers with the shipped reader's tokenizer; the data are the shipped questions.
"""

import json
import math
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering, DebertaV2Config, DebertaV2ForQuestionAnswering

from needle.components.held_out import held_out_scores, predict
from needle.components.reader import MiniLMReader
from needle.components.tokenizer import PassageTokenizer
from needle.components.torch_engine import TorchEngine
from needle.components.trainable import CpuDropout, kept_layers, load_trainable, model_inputs
from needle.components.training import fit, schedule
from needle.components.training_files import TrainingFiles
from needle.components.training_settings import PRESETS, Settings
from needle.components.training_step import parameter_groups, window_losses
from needle.components.training_windows import Source, TrainingWindows
from needle.components.weights import open_checkpoint
from needle.components.workers import Workers
from needle.data import SHIPPED_CORPUS, SHIPPED_READER
from needle.data.errors import ModelError, NeedleError
from needle.data.squad import read_squad
from needle.pipelines.evaluate_answers import evaluate_reader

QUESTIONS = read_squad(SHIPPED_CORPUS / "questions.json")[:80]
TOKENIZER = PassageTokenizer.from_folder(SHIPPED_READER)
DATA = TrainingWindows(QUESTIONS, TOKENIZER)
CPU = torch.device("cpu")
FEW = Settings(epochs=1, batch_tokens=1024, accumulate=2, learning_rate=1e-3, ema=0.9, checkpoint_minutes=0)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Narrow layers gain nothing from more, and these wait for each other where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(seed: int = 0, dropout: float = 0.1) -> BertForQuestionAnswering:
    torch.manual_seed(seed)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertForQuestionAnswering(BertConfig(**size, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout))


def trained(folder, settings=FEW, model=None, dtype=torch.float32, **options):
    """Train a tiny model on all questions; returns it, what came of it, and the log."""
    model = tiny() if model is None else model
    stages = [[Source(0, len(QUESTIONS), 1)]]
    files = TrainingFiles(folder)
    folder.mkdir(exist_ok=True)
    fitted = fit(model, DATA, stages, settings, files, Workers("cpu"), dtype, **options)
    return model, fitted, [json.loads(line) for line in files.log.read_text().splitlines()]


def curve(log):
    return [(line["step"], line["loss"], line["learning_rate"]) for line in log]


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_the_loss_falls_and_the_answers_become_right(tmp_path):
    settings = replace(FEW, epochs=25, learning_rate=5e-3, dropout=0.0, ema=0.0, checkpoint_minutes=60)
    model, _, log = trained(tmp_path, settings, tiny(dropout=0.0))
    assert log[0]["loss"] > 3
    assert log[-1]["loss"] < 1.5
    assert held_out_scores(model, DATA, torch.float32)["f1"] > 60


def test_the_same_seed_gives_the_same_run_and_another_one_another(tmp_path):
    first, _, one = trained(tmp_path / "1")
    second, _, two = trained(tmp_path / "2")
    assert curve(one) == curve(two)
    assert same_weights(first, second)
    _, _, other = trained(tmp_path / "3", replace(FEW, seed=7))
    assert curve(other) != curve(one)


class Killed(Exception):
    pass


@pytest.mark.parametrize("settings", [FEW, replace(FEW, ema=0.0, r_drop=0.5)], ids=["average", "r_drop"])
def test_a_run_cut_off_at_any_step_goes_on_as_if_it_had_not_been(tmp_path, settings):
    whole, fitted, uncut = trained(tmp_path / "whole", settings)
    assert fitted.steps == len(uncut) > 4

    def kill(progress):
        if progress.step == killed_at:
            raise Killed

    for killed_at in (2, fitted.steps - 1):
        folder = tmp_path / f"cut-{killed_at}"
        with pytest.raises(Killed):
            trained(folder, settings, told=kill)
        with (folder / "training.jsonl").open("a") as log:
            log.write('{"step": 3, "lo')  # a line that was being written
        # Whatever the model is at first, its weights come from the checkpoint.
        again, same, log = trained(folder, settings, tiny(seed=99), resume=True)
        assert curve(log) == curve(uncut)
        assert same_weights(again, whole)
        assert (same.tokens, same.windows, same.best_step) == (fitted.tokens, fitted.windows, fitted.best_step)


def test_in_float16_gradients_are_scaled_and_a_step_whose_gradients_overflow_is_left_out(tmp_path):
    settings = replace(FEW, dropout=0.0, ema=0.0)
    exact, _, uncut = trained(tmp_path / "float32", settings, tiny(dropout=0.0))
    model, _, log = trained(tmp_path / "float16", settings, tiny(dropout=0.0), torch.float16)
    assert [line["loss"] for line in log] == pytest.approx([line["loss"] for line in uncut], abs=0.05)
    assert not same_weights(exact, model)
    state = torch.load(tmp_path / "float16/training/state.pt")
    assert state["scaler"]["scale"] == 2**16  # as it began: no step was left out

    def kill(progress):
        if progress.step == 3:
            raise Killed

    with pytest.raises(Killed):
        trained(tmp_path / "cut", settings, tiny(dropout=0.0), torch.float16, told=kill)
    again, _, resumed = trained(tmp_path / "cut", settings, tiny(dropout=0.0), torch.float16, resume=True)
    assert curve(resumed) == curve(log)
    assert same_weights(again, model)

    wild = tiny(dropout=0.0)
    wild.qa_outputs.weight.data *= 3e4  # its gradients, times 2^16, are beyond float16
    _, _, log = trained(tmp_path / "wild", replace(settings, epochs=0.1), wild, torch.float16)
    assert all(math.isfinite(line["loss"]) for line in log)
    assert torch.load(tmp_path / "wild/training/state.pt")["scaler"]["scale"] < 2**16
    assert all(torch.isfinite(p).all() for p in wild.parameters())


def test_resuming_before_the_first_checkpoint_begins_anew(tmp_path):
    _, _, uncut = trained(tmp_path / "whole")
    tmp_path.joinpath("cut").mkdir()
    (tmp_path / "cut/training.jsonl").write_text('{"step": 1, "loss": 0}\n')
    _, _, log = trained(tmp_path / "cut", resume=True)
    assert curve(log) == curve(uncut)


def test_an_epoch_too_short_for_any_question_is_told(tmp_path):
    with pytest.raises(NeedleError, match="Nothing is left to train on"):
        trained(tmp_path, replace(FEW, epochs=0.001))


def test_it_is_resumed_only_with_steps_of_as_many_micro_batches(tmp_path):
    """More processes than these would make other steps of the same plan."""
    trained(tmp_path, FEW)
    with pytest.raises(NeedleError, match=r"began with steps of 2 micro-batches; with 1 processes they would have 3"):
        trained(tmp_path, replace(FEW, accumulate=3), resume=True)


def test_ctrl_c_ends_the_step_keeps_a_checkpoint_and_leaves_the_handler_as_it_was(tmp_path):
    _, _, uncut = trained(tmp_path / "whole", replace(FEW, checkpoint_minutes=60))
    before = signal.getsignal(signal.SIGINT)

    def press(progress):
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", replace(FEW, checkpoint_minutes=60), told=press)
    assert signal.getsignal(signal.SIGINT) is before
    _, _, log = trained(tmp_path / "cut", FEW, resume=True)
    assert curve(log) == curve(uncut)


def test_a_damaged_checkpoint_is_told(tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training/state.pt").write_bytes(b"no checkpoint")
    with pytest.raises(NeedleError, match=r"state\.pt' can't be read.*anew"):
        trained(tmp_path, resume=True)


def test_the_weights_that_did_best_are_kept_and_its_figures_told(tmp_path):
    seen = []

    def evaluate(model):
        seen.append([p.detach().clone() for p in model.parameters()])
        return {"f1": [10.0, 30.0, 20.0, 25.0][len(seen) - 1]}

    model, fitted, log = trained(tmp_path, replace(FEW, epochs=4), evaluate=evaluate)
    assert (fitted.held_out, len(seen)) == ({"f1": 30.0}, 4)
    assert fitted.best_step == [line["step"] for line in log if line["held_out"]][1]
    assert all(torch.equal(p, best) for p, best in zip(model.parameters(), seen[1], strict=True))


def test_evaluations_come_every_so_many_steps_and_at_the_end(tmp_path):
    _, fitted, log = trained(tmp_path, replace(FEW, evaluate_every=2), evaluate=lambda model: {"f1": 1.0})
    evaluated = [line["step"] for line in log if line["held_out"]]
    assert evaluated == sorted({*range(2, fitted.steps + 1, 2), fitted.steps})


def test_a_step_does_not_depend_on_how_its_windows_are_split_into_micro_batches():
    model, numbers = tiny(dropout=0.0).eval(), np.arange(8)
    settings = replace(FEW, dropout=0.0)
    draws = DATA.draws(0, epoch=0)
    together = window_losses(model, DATA.labelled(numbers, draws), settings, torch.float32)
    apart = torch.cat([window_losses(model, DATA.labelled(numbers[[i]], draws), settings, torch.float32) for i in numbers])
    assert torch.allclose(together, apart, atol=1e-5)


def test_the_average_of_the_weights_is_what_is_kept(tmp_path):
    plain, _, _ = trained(tmp_path / "plain", replace(FEW, ema=0.0))
    averaged, _, log = trained(tmp_path / "average", replace(FEW, ema=0.9))
    assert len(log) > 4
    start = tiny()
    for s, p, a in zip(start.parameters(), plain.parameters(), averaged.parameters(), strict=True):
        if s.ndim > 1:
            assert (a - s).norm() < (p - s).norm()  # it follows the weights from behind


def test_a_time_limit_ends_the_run_with_the_rate_near_zero(tmp_path):
    _, fitted, log = trained(tmp_path, replace(FEW, epochs=10_000, max_minutes=0.02))
    assert 1.2 <= fitted.seconds < 10
    assert log[-1]["share"] == 1
    assert log[-1]["learning_rate"] < max(line["learning_rate"] for line in log) / 2


def test_a_time_limit_that_an_evaluation_passes_ends_the_run_like_any_other(tmp_path):
    def slow(_):
        time.sleep(1.5)  # more than the limit
        return {"f1": 1.0}

    _, fitted, log = trained(
        tmp_path, replace(FEW, epochs=10_000, max_minutes=0.02, evaluate_every=1, checkpoint_minutes=60), evaluate=slow
    )
    assert [line["share"] <= 1 and line["seconds_left"] >= 0 for line in log] == [True] * len(log)
    assert (log[-1]["share"], log[-1]["held_out"]) == (1, {"f1": 1.0})
    assert TrainingFiles(tmp_path).load_state(cut_log=True)["step"] == fitted.steps


def test_only_one_process_cuts_the_log_back(tmp_path):
    trained(tmp_path)
    files = TrainingFiles(tmp_path)
    files.append({"step": 10_000})
    before = files.log.read_bytes()
    assert files.load_state(cut_log=False)["step"] < 10_000
    assert files.log.read_bytes() == before
    files.load_state(cut_log=True)
    assert files.log.read_bytes() != before


def test_what_a_kill_left_half_written_is_removed_by_the_next_run_and_all_that_serves_to_go_on_in_the_end(tmp_path):
    trained(tmp_path)
    files = TrainingFiles(tmp_path)
    (files.state.parent / "unfinished-0").write_bytes(b"half")
    files.load_state(cut_log=True)
    assert {file.name for file in files.state.parent.iterdir()} == {"state.pt", "best.safetensors"}
    files.finish()
    assert not files.state.parent.exists()


def test_a_model_without_torchs_fused_attention_is_trained_with_its_own(tmp_path):
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    DebertaV2ForQuestionAnswering(DebertaV2Config(vocab_size=30522, **size)).save_pretrained(tmp_path / "model")
    model = load_trainable(open_checkpoint(tmp_path / "model"), CPU, dropout=0.0)
    before = model.qa_outputs.weight.detach().clone()
    trained(tmp_path / "out", replace(FEW, epochs=0.2, warmup=0.0), model)
    assert not torch.equal(model.qa_outputs.weight, before)


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    model = tiny()
    model.qa_outputs.bias.data[0] = math.inf
    with pytest.raises(NeedleError, match=r"The loss is nan at step 1.*0\.001"):
        trained(tmp_path, model=model)


def test_the_schedule_rises_to_its_peak_and_falls_to_zero():
    assert [schedule(share, 0.2) for share in (0, 0.1, 0.2, 0.6, 1, 1.01)] == pytest.approx([0, 0.5, 1, 0.5, 0, 0])
    assert [schedule(share, 0.0) for share in (0, 0.25, 1)] == pytest.approx([1, 0.75, 0])


def test_only_matrices_decay():
    model = tiny()
    decaying, others = parameter_groups(model, 0.01)
    names = {id(p): name for name, p in model.named_parameters()}
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    assert all(names[id(p)].endswith("bias") or "LayerNorm" in names[id(p)] for p in others["params"])
    assert not any(names[id(p)].endswith("bias") or "LayerNorm" in names[id(p)] for p in decaying["params"])


def test_the_named_recipe_is_the_cards():
    recipe = PRESETS["minilm-squad2"]
    assert (recipe.seed, recipe.batch_size, recipe.accumulate, recipe.epochs, recipe.max_seq_len) == (42, 12, 4, 4, 384)
    assert (recipe.stride, recipe.max_question_tokens, recipe.learning_rate, recipe.warmup) == (128, 64, 4e-5, 0.2)
    assert recipe.batch_tokens is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("learning_rate", math.inf), ("warmup", 1), ("batch_size", 0), ("batch_tokens", 0), ("dropout", -0.1)],
)
def test_a_setting_that_makes_no_sense_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*, not {value}"):
        Settings(**{name: value})


def test_r_drop_needs_dropout():
    with pytest.raises(ValueError, match=r"r_drop 1\.0, dropout can't be 0"):
        Settings(r_drop=1.0, dropout=0.0)


def test_a_student_learns_its_teachers_distribution(tmp_path):
    teacher = tiny(seed=3, dropout=0.0).eval()
    teacher.qa_outputs.weight.data *= 20  # so that there is something to learn
    teacher.save_pretrained(tmp_path / "teacher")
    engine = TorchEngine(open_checkpoint(tmp_path / "teacher"), ["cpu"], "float32")
    settings = replace(FEW, epochs=8, dropout=0.0, ema=0.0, teacher_weight=0.99, learning_rate=5e-3, checkpoint_minutes=60)
    student, _, log = trained(tmp_path / "student", settings, tiny(dropout=0.0), teacher=engine)
    assert log[-1]["loss"] < log[0]["loss"] / 2
    theirs, ours = (predict(model, DATA, torch.float32) for model in (teacher, student))
    agreeing = np.mean([theirs[id_] == ours[id_] for id_ in theirs])
    untrained = predict(tiny(dropout=0.0), DATA, torch.float32)
    assert agreeing > 0.1 + np.mean([theirs[id_] == untrained[id_] for id_ in theirs])


def test_a_compact_reader_is_loaded_with_the_weights_that_the_engine_has():
    checkpoint = open_checkpoint()
    model = load_trainable(checkpoint, CPU, dropout=0.1).eval()
    batch = DATA.batch(np.arange(4))
    with torch.inference_mode():
        output = model(**model_inputs(batch, model))
    start, end = TorchEngine(checkpoint, ["cpu"], "float32").logits(batch)
    real = torch.arange(batch.input_ids.shape[1]) < torch.from_numpy(batch.lengths)[:, None]
    assert torch.allclose(output.start_logits[real], start[real], atol=1e-4)
    assert torch.allclose(output.end_logits[real], end[real], atol=1e-4)


def test_the_shipped_reader_answers_as_it_does_in_a_pipeline():
    model = load_trainable(open_checkpoint(), CPU, dropout=0.1)
    in_pipelines = MiniLMReader(engine="torch", dtype="float32", device="cpu", null_threshold=0.0)
    figures = evaluate_reader(in_pipelines, QUESTIONS).figures
    scores = held_out_scores(model, DATA, torch.float32)
    assert scores == pytest.approx({name: figures[name] for name in scores})
    assert model.training  # as before


def test_gradients_are_those_of_torchs_own_attention():
    def gradients(attention):
        model = tiny(dropout=0.0)
        model.config._attn_implementation = attention
        window_losses(model, DATA.labelled(np.arange(6), DATA.draws(0, 0)), FEW, torch.float32).sum().backward()
        return [p.grad for p in model.parameters()]

    for ours, theirs in zip(gradients("needle_training"), gradients("sdpa"), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_student_starts_from_evenly_chosen_layers():
    assert kept_layers(12, 6) == [0, 2, 4, 7, 9, 11]
    assert kept_layers(12, 3) == [0, 6, 11]
    assert kept_layers(12, 12) == list(range(12))
    whole, student = (load_trainable(open_checkpoint(), CPU, 0.0, layers) for layers in (None, 3))
    assert student.config.num_hidden_layers == len(student.bert.encoder.layer) == 3
    for mine, number in zip(student.bert.encoder.layer, [0, 6, 11], strict=True):
        assert torch.equal(mine.output.dense.weight, whole.bert.encoder.layer[number].output.dense.weight)
    with pytest.raises(ModelError, match=r"student of 13 layers .* it has 12"):
        load_trainable(open_checkpoint(), CPU, 0.0, 13)


def test_cpu_dropout_keeps_the_mean_and_obeys_torchs_seed():
    dropout, x = CpuDropout(0.25), torch.ones(1000, 7, requires_grad=True)
    torch.manual_seed(1)
    y = dropout(x)
    assert sorted(y.detach().unique().tolist()) == pytest.approx([0, 4 / 3])
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert not torch.equal(dropout(x), y)
    torch.manual_seed(1)
    assert torch.equal(dropout(x), y)
    assert torch.equal(dropout.eval()(x), x)


def test_cpu_dropout_of_nearly_everything_keeps_a_256th():
    torch.manual_seed(1)
    assert sorted(CpuDropout(0.999)(torch.ones(1000, 7)).unique().tolist()) == [0, 256]


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="not 'cuda:77'"):
        Workers("cuda:77")
