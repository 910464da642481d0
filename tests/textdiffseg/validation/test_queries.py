from types import SimpleNamespace

from textdiffseg.validation.cases import queries_of


def test_validation_reads_the_words_of_labels_that_a_case_does_not_know(plan, bank):
    """A prediction of all labels reads them, too."""
    case = SimpleNamespace(record=SimpleNamespace(case="a", known=(2,)))
    found = queries_of(plan, case, bank)
    assert found.labels.tolist() == [[2]]
    assert int(found.token_mask.sum()) == int(bank.all_labels().token_mask.sum())
    assert int(found.token_mask.sum()) > int(bank.queries([[(2, 0)]]).token_mask.sum())
