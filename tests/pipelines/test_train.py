"""`needle train` and `train`: files in, a reader with its card out, also after kill -9 and on several processes."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
import torch
import typer.testing
from transformers import AutoModelForQuestionAnswering, BertConfig, BertForQuestionAnswering, BertModel

from needle.components.reader import MiniLMReader
from needle.components.tokenizer import PassageTokenizer
from needle.components.training_settings import Settings
from needle.components.weights import open_checkpoint
from needle.data import SHIPPED_CORPUS, SHIPPED_READER
from needle.data.errors import ModelError, NeedleError, UnreadableFile
from needle.pipelines import resume_training, train
from needle.pipelines.cli import app
from needle.pipelines.evaluate_answers import evaluate_reader

QUESTIONS = SHIPPED_CORPUS / "questions.json"
FEW = Settings(epochs=2, batch_tokens=1024, accumulate=2, learning_rate=5e-3, ema=0.9, checkpoint_minutes=0)
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
NEEDLE = Path(sys.executable).with_name("needle")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Narrow layers gain nothing from more, and these wait for each other where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A reader of two narrow layers, untrained, with the shipped tokenizer."""
    return untrained(tmp_path_factory.mktemp("tiny") / "reader")


def untrained(folder: Path, positions: int = 512) -> Path:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertForQuestionAnswering(BertConfig(**size, max_position_embeddings=positions)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((SHIPPED_READER / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    return train([QUESTIONS], tmp_path_factory.mktemp("trained") / "reader", model=tiny, settings=FEW, held_out=0.2)


def curve(folder: Path) -> list[tuple[int, float, float]]:
    lines = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["learning_rate"]) for line in lines]


def options(tiny: Path, folder: Path) -> list[str]:
    """The command's arguments for what `trained` was made with."""
    flags = {"epochs": 2, "batch-tokens": 1024, "accumulate": 2, "learning-rate": 5e-3, "ema": 0.9, "checkpoint-minutes": 0}
    flags |= {"model": tiny, "held-out": 0.2, "out": folder}
    return ["train", str(QUESTIONS), *(str(part) for name, value in flags.items() for part in (f"--{name}", value))]


def test_the_reader_is_what_transformers_and_needle_read(trained):
    model = AutoModelForQuestionAnswering.from_pretrained(trained.folder)
    assert isinstance(model, BertForQuestionAnswering)
    assert sorted(path.name for path in trained.folder.iterdir()) == [
        *("README.md", "compact", "config.json", "model.safetensors", "run.json"),
        *("tokenizer.json", "tokenizer_config.json", "training.jsonl"),
    ]
    assert PassageTokenizer.from_folder(trained.folder).encode(["Tarn"])[0].ids.tolist() == [16985, 2078]
    assert open_checkpoint(trained.compact).is_compact
    assert len({path.stat().st_mode for path in trained.folder.iterdir() if path.is_file()}) == 1  # others may read it too
    for form in (trained.folder, trained.compact):
        evaluated = evaluate_reader(MiniLMReader(str(form)), trained.files[0].questions[:20])
        assert evaluated.figures["total"] == 20


def test_the_log_has_a_line_a_step_and_the_loss_falls(trained):
    steps = curve(trained.folder)
    assert [step for step, *_ in steps] == list(range(1, trained.fitted.steps + 1))
    losses = [loss for _, loss, _ in steps]
    assert mean(losses[-5:]) < mean(losses[:5]) - 0.3


def test_the_card_tells_what_was_done(trained):
    text = (trained.folder / "README.md").read_text()
    [file] = trained.files
    assert f"| questions.json | {len(file.questions)} | {file.unanswerable} | 0 | 1 | {file.sha256} |" in text
    total = trained.held_out["total"]
    assert f"Held out: {total} of these questions, all those on 20.0% of the passages." in text
    assert f"| all ({total}) | {trained.held_out['exact_match']:.2f} | {trained.held_out['f1']:.2f} |" in text
    for told in ("learning_rate 0.005", "seed 42", f"{trained.fitted.steps} steps", "## Weaknesses", "## Licence"):
        assert told in text


def test_the_weaknesses_are_those_that_were_measured(trained):
    has, none = trained.held_out["has_answer_f1"], trained.held_out["no_answer_f1"]
    assert abs(has - none) > 3, "a reader trained for some seconds is good at one thing only"
    told = (trained.folder / "README.md").read_text()
    assert ('says "no answer" too readily' in told) == (has < none)
    assert ("answers what has no answer" in told) == (none < has)


@pytest.mark.skipif(os.name == "nt" or not NEEDLE.exists(), reason="needs the needle command and kill")
def test_kill_9_and_resume_gives_the_same_run(trained, tiny, tmp_path):
    command = [NEEDLE, *options(tiny, tmp_path / "cut")]
    process = subprocess.Popen(command, env=ONE_THREAD, stderr=subprocess.DEVNULL)
    log, deadline = tmp_path / "cut/training.jsonl", time.monotonic() + 100
    while not (log.exists() and log.read_text().count("\n") >= 3) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 3 <= len(curve(tmp_path / "cut")) < trained.fitted.steps
    resumed = resume_training(tmp_path / "cut")
    assert curve(tmp_path / "cut") == curve(trained.folder)
    assert resumed.held_out == trained.held_out
    weights = [(folder / "model.safetensors").read_bytes() for folder in (resumed.folder, trained.folder)]
    assert weights[0] == weights[1]
    with pytest.raises(NeedleError, match="is finished"):
        resume_training(tmp_path / "cut")


@pytest.mark.skipif(os.name == "nt" or not NEEDLE.exists(), reason="needs the needle command")
def test_two_processes_train_as_one(trained, tiny, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--no-python"]
    whole = [*options(tiny, tmp_path / "two"), "--dropout", "0", "--dtype", "float32"]
    started = subprocess.run([*command, NEEDLE, *whole], capture_output=True, text=True, env=ONE_THREAD, timeout=300)
    assert started.returncode == 0, started.stderr
    assert started.stdout.count(" tokens in ") == started.stderr.count("reading and tokenising") == 1
    settings = Settings(**{**FEW.__dict__, "dropout": 0.0})
    train([QUESTIONS], tmp_path / "one", model=tiny, settings=settings, held_out=0.2, dtype="float32")
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert [step for step, *_ in one] == [step for step, *_ in two]
    assert [loss for _, loss, _ in two] == pytest.approx([loss for _, loss, _ in one], abs=1e-3)
    assert "2 processes" in (tmp_path / "two/README.md").read_text()


def test_the_command_prints_json_and_lines_where_there_is_no_terminal(tiny, tmp_path):
    result = run(*options(tiny, tmp_path / "reader"), "--epochs", "0.1", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["files"][0]["questions"] == 349
    assert found["held_out"]["total"] > 30
    assert Path(found["folder"], "model.safetensors").is_file()
    assert f"step {found['steps']}: held out  exact_match" in result.stderr


def test_ctrl_c_says_how_to_go_on(tiny, tmp_path, monkeypatch):
    from needle.components.training_files import TrainingFiles

    appended = TrainingFiles.append

    def pressed(self, line):
        appended(self, line)
        if line["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(TrainingFiles, "append", pressed)
    result = run(*options(tiny, tmp_path / "reader"))
    assert result.exit_code == 130
    assert f"needle train --resume --out {tmp_path / 'reader'}" in result.stderr
    monkeypatch.undo()
    again = run("train", "--resume", "--out", str(tmp_path / "reader"))
    assert again.exit_code == 0, again.output
    assert len(curve(tmp_path / "reader")) > 3


def test_bad_questions_are_refused_or_skipped_and_counted(tiny, tmp_path):
    content = json.loads(QUESTIONS.read_text())
    bad = copy.deepcopy(content["data"][0]["paragraphs"][0]["qas"][0])
    bad["id"], bad["answers"][0]["answer_start"] = "moved", bad["answers"][0]["answer_start"] + 1
    content["data"][0]["paragraphs"][0]["qas"].append(bad)
    (tmp_path / "bad.json").write_text(json.dumps(content))
    arguments = options(tiny, tmp_path / "reader")
    arguments[1] = str(tmp_path / "bad.json")
    refused = run(*arguments, "--epochs", "0.1")
    assert refused.exit_code == 1
    assert "bad.json" in refused.stderr
    assert "'moved'" in refused.stderr
    skipped = run(*arguments, "--epochs", "0.1", "--skip-bad")
    assert skipped.exit_code == 0, skipped.output
    assert "1 bad question left out" in skipped.stderr
    assert "| bad.json | 349 | 95 | 1 |" in (tmp_path / "reader/README.md").read_text()


def test_training_from_an_encoder_without_a_head(tiny, tmp_path):
    """As from the recipe's base: the head is new, and the same for the same seed."""
    encoder = tmp_path / "encoder"
    BertModel.from_pretrained(tiny).save_pretrained(encoder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (encoder / name).write_bytes((tiny / name).read_bytes())
    short = Settings(**{**FEW.__dict__, "epochs": 0.1})
    for name in ("one", "two"):
        train([QUESTIONS], tmp_path / name, model=encoder, settings=short, held_out=0)
    assert curve(tmp_path / "one") == curve(tmp_path / "two")
    assert "Not measured: nothing was held out." in (tmp_path / "one/README.md").read_text()
    assert "None: too few questions were held out." in (tmp_path / "one/README.md").read_text()


def test_a_model_of_few_positions_is_trained_in_windows_that_it_can_take(tmp_path):
    short = untrained(tmp_path / "short", positions=100)
    settings = replace(FEW, max_seq_len=100, stride=30, epochs=0.1)
    done = train([QUESTIONS], tmp_path / "out", model=short, settings=settings, held_out=0.2)
    assert done.held_out
    assert done.compact


def test_scores_are_calibrated_on_the_held_out_questions(tmp_path):
    short = Settings(**{**FEW.__dict__, "epochs": 0.01, "learning_rate": 1e-6})
    made = train([QUESTIONS], tmp_path / "reader", model=None, settings=short, held_out=0.22)
    for form in (made.folder, made.compact):
        reader = MiniLMReader(str(form))
        reader.warm_up()
        assert reader.confidence.reader == open_checkpoint(form).fingerprint()
        assert reader.confidence.about["questions"] >= 50
    text = (made.folder / "README.md").read_text()
    assert f"fitted to {reader.confidence.about['questions']} of the held-out questions" in text
    assert f"Null threshold: {reader.confidence.null_threshold:.2f}." in text


def test_a_student_of_the_shipped_reader_with_it_as_teacher(tmp_path):
    short = Settings(**{**FEW.__dict__, "epochs": 0.05})
    options = {"model": None, "teacher": SHIPPED_READER, "layers": 3, "held_out": 0}
    made = train([QUESTIONS], tmp_path / "student", settings=short, **options)
    assert json.loads((made.folder / "config.json").read_text())["num_hidden_layers"] == 3
    text = (made.folder / "README.md").read_text()
    assert "- From: the reader that needle ships, 3 of its layers." in text
    assert f"- Teacher: {SHIPPED_READER}." in text


def test_files_have_weights_and_an_order_and_a_file_can_be_held_out(tiny, tmp_path):
    content = json.loads(QUESTIONS.read_text())
    parts = {"one": content["data"][:5], "two": content["data"][5:10], "held": content["data"][4:5]}
    for name, articles in parts.items():
        articles = copy.deepcopy(articles)
        if name == "held":
            for paragraph in articles[0]["paragraphs"]:
                for question in paragraph["qas"]:
                    question["id"] = f"held {question['id']}"
        (tmp_path / f"{name}.json").write_text(json.dumps({"data": articles}))
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    setting = Settings(**{**FEW.__dict__, "epochs": 1})
    made = train(
        files,
        tmp_path / "out",
        model=tiny,
        settings=setting,
        weights=[0.5, 2],
        in_order=True,
        held_out=tmp_path / "held.json",
    )
    held = sum(len(p["qas"]) for p in parts["held"][0]["paragraphs"])
    assert made.held_out["total"] == held
    one, two = (len(file.questions) for file in made.files)
    assert made.fitted.windows == pytest.approx(0.5 * (one - held) + 2 * two, abs=1)
    assert "training saw none of their passages" in (made.folder / "README.md").read_text()


def test_a_changed_file_is_not_resumed_with(tiny, tmp_path):
    (tmp_path / "train.json").write_bytes(QUESTIONS.read_bytes())

    class Killed(Exception):
        pass

    def kill(progress):
        raise Killed

    with pytest.raises(Killed):
        train([tmp_path / "train.json"], tmp_path / "out", model=tiny, settings=FEW, told=kill)
    (tmp_path / "train.json").write_text(QUESTIONS.read_text() + "\n")
    with pytest.raises(NeedleError, match=r"train\.json' is not the file any more"):
        resume_training(tmp_path / "out")
    with pytest.raises(NeedleError, match="exists already and is not empty"):
        train([QUESTIONS], tmp_path / "out", model=tiny, settings=FEW)


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        ({"files": []}, NeedleError, "nothing to train on"),
        ({"weights": [1, 2]}, NeedleError, r"weight of 0 or more for each of the 1 files, not \[1, 2\]"),
        ({"held_out": 1.0}, NeedleError, "held_out must be a share .* not 1.0"),
        ({"held_out": "nowhere.json"}, UnreadableFile, "nowhere.json"),
        ({"model": "./nowhere"}, ModelError, "No reader at './nowhere'"),
        ({"settings": Settings(max_seq_len=513)}, ModelError, "max_seq_len is 513, but this model takes at most 512"),
        ({"device": "cuda:77"}, NeedleError, "not 'cuda:77'"),
        ({"dtype": "float8"}, NeedleError, "one of float32, float16, bfloat16, not 'float8'"),
    ],
)
def test_what_cannot_be_done_is_told(tiny, tmp_path, arguments, error, complaint):
    with pytest.raises(error, match=complaint):
        train(**{"files": [QUESTIONS], "out": tmp_path / "out", "model": tiny, "settings": FEW, **arguments})
    assert not (tmp_path / "out").exists()  # what is mended can be trained there


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--epochs", "0"], "epochs must be above 0, not 0.0"),
        (["--r-drop", "1", "--dropout", "0"], "r_drop compares passes"),
        (["--resume", "--model", "tiny", "--teacher", "large"], "it takes no --model, --teacher, files. Leave that out"),
    ],
)
def test_wrong_usage_is_told(tmp_path, arguments, complaint):
    result = run("train", str(QUESTIONS), "--out", str(tmp_path / "out"), *arguments)
    assert result.exit_code == 1
    assert complaint in result.stderr


def test_there_is_nothing_to_resume_in_another_folder(tmp_path):
    result = run("train", "--resume", "--out", str(tmp_path))
    assert result.exit_code == 1
    assert f"no training in '{tmp_path}' to resume" in result.stderr


def run(*arguments: str):
    return typer.testing.CliRunner().invoke(app, list(arguments))
