"""`pipeline("question-answering")` as notebooks call it: what goes in, what comes out; scores are in tests/parity."""

import pytest
import torch
import transformers

from needle.data import SHIPPED_READER
from needle.data.errors import ModelError, QueryError
from needle.pipelines.compat import SquadExample, pipeline

PARIS = {"question": "What is the capital of France?", "context": "Paris is the capital of France. It lies on the Seine."}
TEA = {"question": "Where was tea first drunk?", "context": "Tea was first drunk in China. The leaves are dried."}


@pytest.fixture(scope="module")
def asked():
    return pipeline("question-answering", device="cpu")


def texts(result):
    return [one["answer"] for one in result]


class TestWhatGoesIn:
    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            ((PARIS,), {}),
            (([PARIS],), {}),
            ((PARIS["question"], PARIS["context"]), {}),
            ((), PARIS),
            ((), {"data": PARIS}),
            ((), {"X": [PARIS]}),
            ((SquadExample(*PARIS.values()),), {}),
            ((), {"question": [PARIS["question"]], "context": [PARIS["context"]]}),
        ],
    )
    def test_one_question_gives_a_dict(self, asked, args, kwargs):
        answer = asked(*args, **kwargs)
        assert answer.keys() == {"score", "start", "end", "answer"}
        assert (answer["start"], answer["end"], answer["answer"]) == (0, 5, "Paris")
        assert 0.8 < answer["score"] <= 1
        assert {type(value) for value in answer.values()} == {float, int, str}

    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            (([PARIS, TEA],), {}),
            ((PARIS, TEA), {}),
            ((), {"question": [PARIS["question"], TEA["question"]], "context": [PARIS["context"], TEA["context"]]}),
            ((), {"data": [PARIS, TEA]}),
        ],
    )
    def test_several_give_a_list(self, asked, args, kwargs):
        assert texts(asked(*args, **kwargs)) == ["Paris", "China"]

    def test_one_context_may_serve_several_questions(self, asked):
        questions = ["What is the capital of France?", "On what does Paris lie?"]
        assert texts(asked(question=questions, context=PARIS["context"])) == ["Paris", "the Seine"]

    def test_a_generator_gives_a_generator(self, asked):
        endless = ({"question": q, "context": PARIS["context"]} for q in iter(lambda: PARIS["question"], None))
        found = asked(endless)
        assert [next(found)["answer"] for _ in range(3)] == ["Paris"] * 3

    def test_samples_are_made_as_before(self, asked):
        assert asked.create_sample(question="q", context="c") == SquadExample("q", "c")
        assert asked(asked.create_sample([PARIS["question"]] * 2, [PARIS["context"]] * 2))[1]["answer"] == "Paris"

    @pytest.mark.parametrize(
        ("args", "kwargs", "error", "told"),
        [
            ((), {"question": "", "context": "c"}, ValueError, "`question` must be a text that is not empty"),
            ((), {"question": "q", "context": None}, ValueError, "two texts, a list of questions"),
            ((), {"question": ["q"], "context": ["a", "b"]}, ValueError, "same lengths: 1 and 2"),
            (({"question": "q"},), {}, KeyError, "context is missing"),
            (("q",), {}, ValueError, "not with 'q'"),
            (([3],), {}, ValueError, "3 must be a dict"),
            ((), {}, ValueError, "None and None"),
            ((PARIS,), {"top_k": 0}, ValueError, "top_k must be at least 1, not 0"),
            ((PARIS,), {"max_answer_len": 0}, ValueError, "max_answer_len must be at least 1"),
            ((PARIS,), {"max_seq_len": 100, "doc_stride": 101}, ValueError, r"doc_stride \(101\)"),
            ((PARIS,), {"topk_": 1}, TypeError, "no parameter topk_"),
            (({**PARIS, "question": "why " * 400},), {}, QueryError, "Ask a shorter question"),
        ],
    )
    def test_what_can_not_be_understood_is_told(self, asked, args, kwargs, error, told):
        with pytest.raises(error, match=told):
            asked(*args, **kwargs)


class TestWhatComesOut:
    def test_several_answers_are_a_list_best_first(self, asked):
        answers = asked(PARIS, top_k=3)
        assert len(answers) == 3
        assert [one["score"] for one in answers] == sorted((one["score"] for one in answers), reverse=True)
        assert all(PARIS["context"][one["start"] : one["end"]] == one["answer"] for one in answers)
        assert texts(asked(PARIS, topk=2)) == texts(answers)[:2]

    def test_no_answer_is_an_empty_text_at_0(self, asked):
        impossible = {**TEA, "question": "Who invented the telephone?"}
        answer = asked(impossible, handle_impossible_answer=True)
        assert (answer["start"], answer["end"], answer["answer"]) == (0, 0, "")
        assert answer["score"] > 0.5
        assert asked(impossible)["answer"]

    def test_a_context_without_words_has_no_answer(self, asked):
        nothing = {"question": "Who?", "context": " \n"}
        assert asked(nothing) == {"score": 0.0, "start": 0, "end": 0, "answer": ""}
        assert asked(nothing, handle_impossible_answer=True)["score"] == 1.0
        assert texts(asked([nothing, PARIS])) == ["", "Paris"]

    def test_an_empty_list_gives_one(self, asked):
        assert asked([]) == []

    def test_answers_are_whole_words_unless_told_otherwise(self, asked):
        example = {"question": "What did he study?", "context": "He studied electroencephalographically recorded sleep."}
        whole = asked(example, top_k=8)
        assert all(not example["context"][one["end"] : one["end"] + 1].isalpha() for one in whole)
        parts = asked(example, top_k=30, align_to_words=False)
        assert any(example["context"][one["end"] : one["end"] + 1].isalpha() for one in parts)

    def test_an_answer_in_a_long_context_is_at_its_likeliest_place_and_no_surer_than_1(self, asked):
        filler = " ".join(f"Paris had {n} visitors on that day." for n in range(300))
        context = f"{filler} {PARIS['context']} {filler}"
        answer = asked(question=PARIS["question"], context=context)
        assert (answer["answer"], answer["start"]) == ("Paris", len(filler) + 1)
        assert answer["score"] <= 1

    def test_defaults_can_be_set_for_all_calls(self):
        asked = pipeline("question-answering", top_k=2, handle_impossible_answer=True, batch_size=1, padding=True)
        assert len(asked(PARIS)) == 2
        assert isinstance(asked(PARIS, top_k=1), dict)


class TestMakingOne:
    @pytest.mark.parametrize("task", ["summarization", "text-classification", None])
    def test_other_tasks_are_refused(self, task):
        with pytest.raises(ValueError, match="one task, 'question-answering'"):
            pipeline(task)

    @pytest.mark.parametrize(
        ("kwargs", "told"),
        [
            ({"model": torch.nn.Linear(1, 1)}, "not a Linear"),
            ({"tokenizer": 3}, "not a int"),
            ({"framework": "tf"}, "no framework but 'pt'"),
            ({"trust_remote_code": True}, "no code from the hub"),
            ({"device": -2}, "device must be -1"),
            ({"device_map": {"a": 0, "b": 1}}, "on one device"),
            ({"dtype": "int4"}, "dtype must be one of float32"),
            ({"top_k": 0}, "top_k must be at least 1"),
        ],
    )
    def test_what_needle_can_not_use_is_refused(self, kwargs, told):
        with pytest.raises(ValueError, match=told):
            pipeline("question-answering", **kwargs)

    def test_a_model_that_is_not_there_is_told_at_the_first_call(self):
        asked = pipeline("question-answering", model="deepset/no-such-reader")
        with pytest.raises(ModelError, match="deepset/no-such-reader"):
            asked(PARIS)

    @pytest.mark.parametrize("device", [-1, "cpu", torch.device("cpu"), None])
    @pytest.mark.parametrize("dtype", [None, "auto", torch.float32])
    def test_devices_and_numbers_are_named_as_before(self, device, dtype):
        folder = str(SHIPPED_READER)
        asked = pipeline("question-answering", model=folder, tokenizer=folder, device=device, torch_dtype=dtype)
        assert asked(PARIS)["answer"] == "Paris"

    def test_a_tokenizer_of_transformers_is_taken(self):
        tokenizer = transformers.AutoTokenizer.from_pretrained(SHIPPED_READER)
        assert pipeline("question-answering", tokenizer=tokenizer, device="cpu")(PARIS)["answer"] == "Paris"

    def test_a_model_of_transformers_is_taken_with_its_tokenizer(self, tmp_path):
        pipeline("question-answering").save_pretrained(tmp_path)
        model = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path)
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
        asked = pipeline("question-answering", model=model, tokenizer=tokenizer, device="cpu")
        found, same = asked(PARIS), pipeline("question-answering", model=str(tmp_path), device="cpu")(PARIS)
        assert found["answer"] == same["answer"] == "Paris"
        assert found["score"] == pytest.approx(same["score"], abs=0.02)  # int8 forms made in two ways
        with pytest.raises(ValueError, match="tokenizer of your model"):
            pipeline("question-answering", model=model)

    @pytest.mark.skipif(torch.cuda.device_count() > 7, reason="there are as many GPUs")
    def test_a_gpu_that_is_not_there_is_named(self):
        with pytest.raises(ModelError, match="'cuda:7' is not there"):
            pipeline("question-answering", device=7)(PARIS)
