"""Tests of tools.bench: that it measures what it says it measures."""
# It keeps transformers offline, and has to be imported before it.
from tests.support import move_lora, same_weights

# isort: split
import pytest
import torch
import transformers

from runlog.errors import UserError
from tools import bench

TINY = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2)


def changes(side, completions) -> torch.Tensor:
    """How far one update moves the LoRA weights, as one vector."""
    before = torch.cat([p.detach().flatten() for p in side.policy.lora.values()])
    side.update(completions)
    after = torch.cat([p.detach().flatten() for p in side.policy.lora.values()])
    return after - before


def test_both_sides_of_the_comparison_do_the_same_work(tmp_path):
    """Catches: the fast path compared with itself; sides that draw other completions, or fewer
    tokens than they should; an update of one side that is another one, or is skipped."""
    P, G, C = 20, 4, 6
    bench.build(str(tmp_path), **TINY)
    config = bench.config_for(G, C)
    ours, plain = (bench.Side(bench.policy_from(str(tmp_path), config, "fp32", engine), config, P)
                   for engine in ("auto", "plain"))
    assert not ours.policy.slow_because and plain.policy.slow_because
    assert same_weights(ours.policy.lora, plain.policy.lora)
    for side in (ours, plain):          # fresh LoRA weights hide half of the gradients
        move_lora(side.policy)

    completions = ours.sample()
    assert plain.sample() == completions
    assert [len(c) for c in completions] == [C] * G
    assert ours.sample() != completions, "each turn draws anew"

    of_ours, of_plain = changes(ours, completions), changes(plain, completions)
    assert of_ours.norm() > 0
    if not bench.CUDA:      # there it is bf16, and Adam's first step keeps a gradient's sign alone
        assert (of_ours - of_plain).norm() < 0.02 * of_ours.norm()
    for name, p in ours.policy.lora.items():
        expected = plain.policy.lora[name].grad
        tolerance = 0.05 if bench.CUDA else 1e-4
        assert (p.grad - expected).abs().max() <= tolerance * expected.abs().max(), name


def test_the_benchmark_builds_4bit_llamas_layer_by_layer(capsys):
    """The GPU benchmark on a tiny shape: NF4 weights under every linear layer but the head, sampled
    from and trained."""
    model = bench.random_4bit("toy")
    linear = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert not hasattr(linear.pop("lm_head").weight, "quant_state")
    assert len(linear) == 2 * 7 and {m.weight.quant_state.quant_type
                                     for m in linear.values()} == {"nf4"}
    bench.gpu("toy", 16, 3, 4, 4)
    out = capsys.readouterr().out
    assert "micro-batch" in out and "toy (16, 3, 4) r=4, step 2: sampling" in out
    row = out.splitlines()[-1].split(" | ")
    assert row[:3] == ["| TOY", "16, 3, 4", "4"] and float(row[3]) > 0 and float(row[4]) > 0


def test_the_row_for_the_docs_says_what_did_not_fit(capsys, monkeypatch):
    """Catches: a benchmark that ends in a traceback where a card is too small, which is what a
    reader wants to know."""
    def fails(*_):
        raise torch.cuda.OutOfMemoryError("out of memory")
    monkeypatch.setattr(bench.Side, "update", fails)
    bench.gpu("toy", 16, 3, 4, 4)
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.split(" | ")[4] == "-" and "did not fit: out of memory" in row


@pytest.mark.parametrize("argv", [["compare", "40", "10"], ["gpu"], ["gpu", "70b"], ["sandbocks"]])
def test_a_command_that_is_not_there_is_answered_with_the_usage(argv, monkeypatch):
    """Catches: a mistyped command that ends in a traceback, or measures something else."""
    monkeypatch.setattr(bench, "quiet", lambda: None)       # it would last for the other tests
    with pytest.raises(UserError, match="usage"):
        bench.main(argv)


@pytest.mark.parametrize("P", [40, 300])
def test_both_sides_have_a_prompt_of_the_same_tokens(tmp_path, P):
    """Catches: words that fall apart because a special token's name is in them, so that the other
    side, which reads a text, has a longer prompt."""
    bench.build(str(tmp_path), **TINY)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer(bench.prompt_of(P, tokenizer))["input_ids"]
    assert len(ids) == P and min(ids) > 1
    config = bench.config_for(4, 6)
    ours = bench.Side(bench.policy_from(str(tmp_path), config, "fp32"), config, P)
    assert ours.prompt == ids
