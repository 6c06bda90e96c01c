from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from r2d2.config import Split
from r2d2.data.cases import Case, Dataset
from r2d2.data.split import split_patients
from r2d2.errors import InputError

LABELS = {0: "background", 1: "lesion"}


def dataset_of(patients, cases_each=1):
    cases = [Case(f"{p}_{i}", p, (Path(p),), Path(p)) for p in patients for i in range(cases_each)]
    return Dataset("test", LABELS, ("T1w",), tuple(cases))


def patients_of(parts):
    return {part: {name.rsplit("_", 1)[0] for name in names} for part, names in parts.items()}


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 3), st.integers(0, 5), st.tuples(*[st.integers(0, 100)] * 3))
def test_every_patient_is_in_one_part_and_every_part_has_its_share(patients, cases_each, seed, weights):
    assume(sum(weights) > 0)
    fractions = tuple(weight / sum(weights) for weight in weights)
    dataset = dataset_of([f"p{i}" for i in range(patients)], cases_each)
    split = Split(fractions=fractions, seed=seed)
    if patients < sum(weight > 0 for weight in weights):
        with pytest.raises(InputError, match="need at least"):
            split_patients(dataset, split)
        return
    parts = split_patients(dataset, split)
    assert list(parts) == ["training", "validation", "test"]
    assert sorted(name for names in parts.values() for name in names) == sorted(case.name for case in dataset.cases)
    by_part = patients_of(parts)
    assert sum(len(found) for found in by_part.values()) == patients
    for fraction, found in zip(fractions, by_part.values(), strict=True):
        assert (len(found) > 0) == (fraction > 0)
        assert abs(len(found) - fraction * patients) < 3


@pytest.mark.parametrize(
    ("patients", "sizes"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (20, (14, 3, 3)), (484, (338, 73, 73))]
)
def test_the_default_split_is_70_15_15(patients, sizes):
    parts = split_patients(dataset_of([f"p{i}" for i in range(patients)]), Split())
    assert tuple(len(names) for names in parts.values()) == sizes


def test_a_split_follows_its_seed_and_not_the_order_of_cases():
    dataset = dataset_of([f"p{i}" for i in range(20)])
    reverse = Dataset("test", LABELS, ("T1w",), dataset.cases[::-1])
    first = split_patients(dataset, Split(seed=1))
    assert first == split_patients(dataset, Split(seed=1))
    assert patients_of(first) == patients_of(split_patients(reverse, Split(seed=1)))
    assert first != split_patients(dataset, Split(seed=2))


def test_two_patients_cannot_be_split_in_three():
    with pytest.raises(InputError, match=r"3 parts need at least 3 patients, the dataset has 2.*patient_pattern"):
        split_patients(dataset_of(["a", "b"], cases_each=9), Split())


def test_every_patient_is_tested_in_one_fold_and_validated_in_the_one_before():
    dataset = dataset_of([f"p{i}" for i in range(11)], cases_each=2)
    folds = [patients_of(split_patients(dataset, Split(folds=4, fold=fold))) for fold in range(4)]
    assert sorted(p for parts in folds for p in parts["test"]) == sorted(f"p{i}" for i in range(11))
    for fold, parts in enumerate(folds):
        assert parts["validation"] == folds[(fold + 1) % 4]["test"]
        assert parts["training"].isdisjoint(parts["validation"] | parts["test"])
        assert sum(len(part) for part in parts.values()) == 11


def test_folds_need_as_many_patients():
    with pytest.raises(InputError, match="4 folds need at least 4 patients"):
        split_patients(dataset_of(["a", "b", "c"]), Split(folds=4))


def test_lists_win_and_leave_out_whom_they_do_not_name():
    split = Split(training=("c", "a"), validation=("b",), test=(), folds=4)
    parts = split_patients(dataset_of(["a", "b", "c", "d"], cases_each=2), split)
    assert parts == {"training": ("a_0", "a_1", "c_0", "c_1"), "validation": ("b_0", "b_1"), "test": ()}


def test_lists_with_unknown_or_doubled_patients_are_refused_by_name():
    dataset = dataset_of(["a", "b", "c"])
    with pytest.raises(InputError, match=r"data\.split\.test: no patient 'x'"):
        split_patients(dataset, Split(training=("a",), validation=("b",), test=("x",)))
    with pytest.raises(InputError, match="patient 'a' is in training and in test"):
        split_patients(dataset, Split(training=("a",), validation=("b",), test=("a",)))
