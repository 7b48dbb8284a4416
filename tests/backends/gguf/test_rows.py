"""Where a model says so, tokens have the same bits in runs of their own and together: several can be checked at once.

Whether they have depends on the kernels of the processor. One with AVX-512 has them, one with AVX2 alone has not.
"""

from __future__ import annotations

import numpy as np
import pytest

from hybrid_llm.backends.edge.model import EdgeModel
from hybrid_llm.backends.edge.scheduling import BORDER, Prefix
from hybrid_llm.backends.models.gguf import import_gguf

PROMPT, MORE = 2 * BORDER + 7, 16
TOLERANCE = 1.0
"""Of logits where the bits differ; those of real weights reach 25."""


@pytest.fixture(scope="module")
def rows(small, tmp_path_factory) -> EdgeModel:
    folder = tmp_path_factory.mktemp("rows") / "small"
    import_gguf(small, folder, name="small")
    return EdgeModel(folder, threads=1, spin=False)


def same_bits(model: EdgeModel, ids: list[int]) -> bool:
    """Whether runs of several of the *ids* give the logits and keys of runs of one."""
    assert model.layout.logit_rows is not None
    alone = model.sequence(len(ids))
    alone.append(ids[:PROMPT])
    expected = [alone.append([token]).copy() for token in ids[PROMPT:]]
    together = model.sequence(len(ids))
    together.append(ids[:PROMPT])
    same = []
    for count in (2, 3, 4, 8, MORE):
        got = together.append_rows(ids[PROMPT : PROMPT + count])
        np.testing.assert_allclose(got, expected[:count], atol=TOLERANCE)
        pairs = zip(together.buffers, alone.buffers, strict=True)
        same += [np.array_equal(got, expected[:count])]
        same += [np.array_equal(*(each[:, :, : PROMPT + count] for each in pair)) for pair in pairs]
        together.rewind(PROMPT)
    np.testing.assert_array_equal(together.append(ids[PROMPT : PROMPT + 1]), expected[0])
    return all(same)


def test_a_model_knows_whether_a_run_of_several_tokens_gives_each_the_bits_of_its_own_run(rows):
    assert same_bits(rows, [5 + (7 * i) % 200 for i in range(PROMPT + MORE)]) == (rows.row_runs is not None)


@pytest.mark.weights
@pytest.mark.slow
def test_so_it_is_with_real_weights(smollm2_folder):
    for threads in (1, 2):
        model = EdgeModel(smollm2_folder, threads=threads, spin=False)
        ids = [300 + (977 * i) % 20_000 for i in range(PROMPT + MORE)]
        assert same_bits(model, ids) == (model.row_runs is not None)


def test_a_run_must_fit_and_hold_ids_of_the_vocabulary(rows):
    sequence = rows.sequence(3)
    for ids in ([], [1, 2, 3, 4], [rows.layout.vocab_size], [-1]):
        with pytest.raises(ValueError, match=r"fit|vocabulary"):
            sequence.append_rows(ids)


def test_a_portable_folder_is_of_the_form_that_other_runtimes_read(small, tmp_path):
    import_gguf(small, tmp_path / "portable", name="small", portable=True)
    layout = EdgeModel(tmp_path / "portable", threads=1).layout
    assert (layout.logit_rows, layout.rows_per_token) == (None, 1)


def test_the_keys_of_an_answer_are_reused_as_those_of_a_prompt(rows):
    """A sequence that goes on from another's steps has the bits of one that read all at once.

    Where tokens have other bits in runs of their own, only the prompt up to a border is reused.
    """
    ids = [5 + (11 * i) % 200 for i in range(2 * BORDER + MORE)]
    donor, alone = rows.sequence(len(ids)), rows.sequence(len(ids))
    donor.append(ids[: BORDER + 3])
    for token in ids[BORDER + 3 : 2 * BORDER]:
        donor.append([token])
    exact, reusable = rows.row_runs is not None, donor.reusable
    assert reusable == (2 * BORDER if exact else BORDER)
    heir = rows.sequence(len(ids), Prefix(length=reusable, buffers=list(donor.release())))
    np.testing.assert_array_equal(heir.append(ids[reusable:]), alone.append(ids))
    assert heir.reusable == alone.reusable == (len(ids) if exact else 2 * BORDER)
