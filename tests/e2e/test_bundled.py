"""The main job: a long document in through OpenAI's SDK, past the training length, and a completion out."""

import concurrent.futures

import openai
import pytest
import torch
from helpers.served import Served
from openai import OpenAI

import model_registry.modeling_wavelet  # noqa: F401 - registers the classes with Transformers

pytestmark = pytest.mark.engine

TIE_NATS = 0.1
"""Two tokens whose float32 log-probabilities differ by less may change places in bfloat16."""


@pytest.fixture(scope="module")
def tokenizer(bundled: Served):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundled.checkpoint)


@pytest.fixture(scope="module")
def reference(bundled: Served):
    """The dense model of Transformers, in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(bundled.checkpoint, dtype=torch.float32).eval()


def document(tokenizer, sources: list[str], tokens: int, first: int = 0) -> list[int]:
    ids: list[int] = []
    for text in sources[first:] + sources[:first]:
        ids += tokenizer(text).input_ids
        if len(ids) >= tokens:
            return ids[:tokens]
    raise AssertionError(f"the sources hold {len(ids)} tokens only")


def test_the_cap_admits_64_training_lengths_and_a_completion(client: OpenAI, train_length: int) -> None:
    [model] = client.models.list().data
    assert model.max_model_len >= 40_960 >= 64 * train_length + 8_192
    assert model.train_length == train_length


def test_a_document_of_many_training_lengths_completes_alike_streamed_and_whole(
    client: OpenAI, bundled: Served, tokenizer, sources: list[str], train_length: int
) -> None:
    text = tokenizer.decode(document(tokenizer, sources, 9 * train_length))
    asked = {"model": bundled.model, "prompt": text, "max_tokens": 48, "temperature": 0}
    # Both then start from the same cached blocks: a prompt computed in other chunks rounds otherwise in bfloat16, and
    # a greedy tie may fall the other way.
    client.completions.create(**asked)
    raw = client.completions.with_raw_response.create(**asked)
    whole = raw.parse()
    streamed = "".join(
        choice.text for chunk in client.completions.create(**asked, stream=True) for choice in chunk.choices
    )
    assert whole.usage.prompt_tokens >= 8 * train_length
    assert float(raw.headers["x-wave-extrapolation-factor"]) >= 8
    assert streamed == whole.choices[0].text != ""


def test_a_document_over_the_cap_is_refused_before_the_engine(
    client: OpenAI, bundled: Served, sources: list[str]
) -> None:
    limit = client.models.list().data[0].max_model_len
    before = bundled.engine_metric("vllm:prompt_tokens_total")
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=bundled.model, prompt="".join(sources), max_tokens=8)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.body["n_prompt_tokens"] > limit == caught.value.body["n_ctx"]
    assert bundled.engine_metric("vllm:prompt_tokens_total") == before


def test_chat_is_a_clear_400_because_the_model_has_no_template(client: OpenAI, bundled: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="chat template"):
        client.chat.completions.create(model=bundled.model, messages=[{"role": "user", "content": "hello"}])


def test_twenty_documents_at_once_all_finish(
    client: OpenAI, bundled: Served, tokenizer, sources: list[str], train_length: int
) -> None:
    def ask(index: int) -> openai.types.Completion:
        prompt = document(tokenizer, sources, 2 * train_length + 37 * index, first=index)
        return client.completions.create(
            model=bundled.model, prompt=prompt, max_tokens=12, extra_body={"ignore_eos": True}
        )

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(20)))
    assert [answer.usage.completion_tokens for answer in answers] == [12] * 20


def test_greedy_continuations_agree_with_transformers_but_for_ties(
    client: OpenAI, bundled: Served, reference, tokenizer, sources: list[str]
) -> None:
    """Teacher-forced: each of the engine's 64 tokens is the dense model's best, or within a tie of it."""
    ties = 0
    for index, text in enumerate(sources):
        prompt = tokenizer(text[:30_000]).input_ids[500 * (index % 3) :][: 40 + 61 * index]
        answer = client.completions.create(
            model=bundled.model,
            prompt=prompt,
            max_tokens=64,
            temperature=0,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )
        generated = answer.choices[0].token_ids
        assert len(generated) == 64
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt + generated])).logits[0, len(prompt) - 1 : -1]
        log_probs = logits.log_softmax(-1)
        gap = log_probs.max(-1).values - log_probs.gather(1, torch.tensor(generated)[:, None])[:, 0]
        assert gap.max() < TIE_NATS, f"document {index}: token {int(gap.argmax())} is {gap.max():.3f} nats off"
        ties += int((gap > 0).sum())
    assert ties <= 0.02 * 64 * len(sources)
