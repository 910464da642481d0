"""Reading phrases as what labels mean, on vectors that are drawn rather than encoded."""

import torch

from textdiffseg.text.space import projection

WIDTH = 64


def draw(labels: int, phrasings: int, apart: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Known and new phrasings (labels, phrasings, WIDTH): means `apart`, wordings vary along four common directions."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(1, WIDTH, generator=generator) + apart * torch.randn(labels, WIDTH, generator=generator)
    wordings = torch.randn(4, WIDTH, generator=generator)
    shares = torch.randn(2, labels, phrasings, 4, generator=generator)
    return tuple(means[:, None] + shares @ wordings)


def scatter(vectors: torch.Tensor, around: torch.Tensor) -> float:
    """The distance of phrasings from their label's mean, of that between labels."""
    return float((vectors - around[:, None]).norm(dim=2).mean() / torch.pdist(around).mean())


def test_labels_stay_where_they_are_and_their_phrasings_come_close_together():
    known, new = draw(labels=5, phrasings=8, apart=0.3)
    onto, means = projection(list(known)), known.mean(1)
    assert torch.allclose(means @ onto, means, atol=1e-4)
    assert scatter(known, means) > 0.5
    assert scatter(known @ onto, means) < 0.1
    assert scatter(new @ onto, means) < 0.2 * scatter(new, means)


def test_without_a_second_phrasing_vectors_stay_and_of_others_is_read_what_they_span():
    single = draw(labels=3, phrasings=1, apart=1.0)[0]
    onto, vectors = projection(list(single)), single[:, 0]
    assert torch.allclose(vectors @ onto, vectors, atol=1e-4)
    other = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    shares = torch.linalg.lstsq(vectors.T, other[:, None]).solution[:, 0]
    assert torch.allclose(other @ onto, shares @ vectors, atol=1e-4)


def test_some_labels_may_have_one_phrase_and_one_label_is_enough():
    first, *others = draw(labels=3, phrasings=4, apart=1.0)[0]
    onto = projection([first[:1], *others])
    assert torch.allclose(first[:1] @ onto, first[:1], atol=1e-4)
    assert all(torch.allclose(one.mean(0) @ onto, one.mean(0), atol=1e-4) for one in others)
    alone = first @ projection([first])
    assert torch.linalg.matrix_rank(alone, rtol=1e-4) == 1
    assert torch.allclose(alone.mean(0), first.mean(0), atol=1e-4)


def test_labels_that_words_cannot_tell_apart_are_not_drawn_apart():
    known = draw(labels=3, phrasings=2, apart=1.0)[0]
    for difference in (0.0, 1e-6):
        same = torch.cat((known, known[:1] + difference))
        mapped = (same @ projection(list(same))).mean(1)
        assert torch.allclose(mapped, same.mean(1), atol=1e-4)


def test_with_more_labels_than_dimensions_vectors_stay():
    many = draw(labels=WIDTH + 10, phrasings=2, apart=1.0)[0]
    assert torch.allclose(many @ projection(list(many)), many, atol=1e-3)
