"""The main job: a long document in through OpenAI's SDK, past the training length, and a completion out."""

import concurrent.futures
from collections.abc import Callable

import openai
import pytest
import torch
from helpers.served import Served
from openai import OpenAI

import model_registry.modeling_wavelet  # noqa: F401 - registers the classes with Transformers

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def tokenizer(bundled: Served):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundled.checkpoint)


@pytest.fixture(scope="module")
def dense(bundled: Served) -> Callable[[list[int], torch.dtype], torch.Tensor]:
    """Log-probabilities that Transformers' dense model gives after each of a prompt's tokens, [tokens, vocabulary]."""
    from transformers import AutoModelForCausalLM

    models = {
        dtype: AutoModelForCausalLM.from_pretrained(bundled.checkpoint, dtype=dtype).eval()
        for dtype in (torch.float32, torch.bfloat16)
    }

    def log_probs(ids: list[int], dtype: torch.dtype) -> torch.Tensor:
        with torch.inference_mode():
            return models[dtype](torch.tensor([ids])).logits[0].float().log_softmax(-1)

    return log_probs


def document(tokenizer, sources: list[str], tokens: int, first: int = 0) -> list[int]:
    ids: list[int] = []
    for text in sources[first:] + sources[:first]:
        ids += tokenizer(text).input_ids
        if len(ids) >= tokens:
            return ids[:tokens]
    raise AssertionError(f"the sources hold {len(ids)} tokens only")


def test_a_seed_draws_the_same_whether_a_prompt_is_read_in_parts_or_kept(
    client: OpenAI, bundled: Served, tokenizer, sources: list[str]
) -> None:
    ids = document(tokenizer, sources, 12_000, first=7)
    asked = {"model": bundled.model, "prompt": ids, "max_tokens": 16, "temperature": 1.0}
    in_parts, kept, other = (client.completions.create(**asked, seed=seed).choices[0].text for seed in (5, 5, 6))
    assert in_parts == kept != other


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


def test_greedy_continuations_agree_with_transformers_as_far_as_bfloat16_does(
    client: OpenAI, bundled: Served, dense, tokenizer, sources: list[str]
) -> None:
    """Teacher-forced: each token is the float32 model's best, or bfloat16's rounding alone can have changed it.

    What rounding does is measured: the same dense model in bfloat16, at the same tokens.
    """
    changed = {"engine": 0, "dense": 0}
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
        exact, rounded = (
            dense(prompt + generated, dtype)[len(prompt) - 1 : -1] for dtype in (torch.float32, torch.bfloat16)
        )
        picks = {"engine": torch.tensor(generated), "dense": rounded.argmax(-1)}
        best = exact.max(-1)
        for name, pick in picks.items():
            changed[name] += int((pick != best.indices).sum())
        # Likely tokens only: an unlikely one's log-probability is rounded more, and nobody picks it.
        likely = exact.exp() > 0.01
        rounding = (exact - rounded).abs()[likely].max()
        gap = (best.values - exact.gather(1, picks["engine"][:, None])[:, 0]).max()
        assert gap <= 2 * rounding, f"document {index}: {gap:.3f} nats below the best, rounding {rounding:.3f}"
    assert changed["engine"] <= 2 * changed["dense"], changed
