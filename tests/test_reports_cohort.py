"""What the cohort's page computes: effects of the scanner, the map, raters' agreement; against worked examples."""

import math

import numpy as np
import pytest

from bidsrep.evaluation.cohort_agreement import cohen_kappa, fleiss_kappa, percent_agreement
from bidsrep.evaluation.cohort_effects import eta_squared, eta_squared_by_chance, group_identification
from bidsrep.evaluation.cohort_map import centre_groups, principal_components

RNG = np.random.default_rng(0)


class TestEtaSquared:
    def test_worked_example(self):
        """Means 2 and 6 around 4: between 2 * 3 * 4 = 24, within 2 + 2, total 28."""
        assert eta_squared(np.array([1, 2, 3, 5, 6, 7]), list("aaabbb")) == pytest.approx(24 / 28)

    def test_channels_are_added_up(self):
        """The second channel has no difference between the groups: between 24, total 28 + 12."""
        rows = np.array([[1, 1], [2, 3], [3, 5], [5, 5], [6, 3], [7, 1]])
        assert eta_squared(rows, list("aaabbb")) == pytest.approx(24 / (28 + 16))

    def test_equal_means_explain_nothing(self):
        assert eta_squared(np.array([1, 3, 0, 4]), list("aabb")) == 0

    def test_equal_values_have_no_variance_to_explain(self):
        assert math.isnan(eta_squared(np.ones(4), list("aabb")))
        assert math.isnan(eta_squared(np.ones(0), []))

    def test_chance_is_what_random_groups_explain(self):
        values = RNG.normal(size=(40, 5))
        groups = [0] * 20 + [1] * 10 + [2] * 10
        found = [eta_squared(values, RNG.permutation(groups)) for _ in range(300)]
        assert np.mean(found) == pytest.approx(eta_squared_by_chance(groups), abs=0.01)

    def test_rows_and_groups_belong_together(self):
        with pytest.raises(ValueError, match="3 rows, 2 groups"):
            eta_squared(np.ones(3), list("ab"))


class TestIdentification:
    def test_worked_example(self):
        """Centroids without the row itself: a at 0 and 1, b at 10; the stray b at 1 is taken for an a."""
        features = np.array([[0.0], [1.0], [10.0], [11.0], [1.0]])
        assert group_identification(features, list("aabbb")) == (0.8, 0.6)

    def test_what_is_apart_is_found(self):
        features = np.repeat([[0, 0], [5, 5]], 6, axis=0) + RNG.normal(size=(12, 2)) * 0.1
        assert group_identification(features, [0] * 6 + [1] * 6) == (1.0, 0.5)

    def test_nothing_is_found_where_nothing_is(self):
        features, groups = RNG.normal(size=(400, 3)), RNG.integers(0, 2, 400)
        accuracy, chance = group_identification(features, groups.tolist())
        assert accuracy == pytest.approx(0.5, abs=0.1)
        assert chance == pytest.approx(0.5, abs=0.1)

    def test_a_person_does_not_give_the_scanner_away(self):
        """Four people, nothing in common, scanned twice: a row's own twin is what makes its scanner near."""
        people, groups = np.repeat(range(4), 2).tolist(), list("aaaabbbb")
        features = np.repeat(np.eye(4), 2, axis=0)
        assert group_identification(features, groups) == (1.0, 0.5)
        assert group_identification(features, groups, people) == (0.0, 0.5)

    def test_a_group_of_one_person_cannot_be_scored(self):
        features = np.array([[0.0], [0.1], [1.0], [1.1], [9.0]])
        assert group_identification(features, list("aabbc"), list("vwxyz")) == (1.0, 0.5)
        assert all(math.isnan(x) for x in group_identification(features[:3], list("aab"), list("xyz")))
        assert all(math.isnan(x) for x in group_identification(np.eye(2), list("ab"), list("xy")))


class TestMap:
    def test_worked_example(self):
        """Along (1, 1): distances sqrt(2) to either side of the middle; nothing across."""
        scores, explained = principal_components(np.array([[0, 0], [1, 1], [2, 2]]))
        assert scores[:, 0] == pytest.approx([-math.sqrt(2), 0, math.sqrt(2)])
        assert scores[:, 1] == pytest.approx(0)
        assert explained == pytest.approx([1, 0])

    @pytest.mark.parametrize("shape", [(30, 6), (6, 30)])
    def test_distances_along_all_components_are_those_of_the_rows(self, shape):
        rows = RNG.normal(size=shape)
        scores, explained = principal_components(rows, 6)
        between = np.linalg.norm(rows[0] - rows[1])
        assert np.linalg.norm(scores[0] - scores[1]) == pytest.approx(between)
        assert explained.sum() == pytest.approx(1)
        assert np.all(np.diff(explained) <= 0)

    def test_equal_rows_are_one_point(self):
        scores, explained = principal_components(np.ones((4, 3)))
        assert not scores.any()
        assert not explained.any()

    def test_centred_groups_have_the_same_mean(self):
        groups = np.array(list("aabb"))
        rows = centre_groups(RNG.normal(size=(4, 3)), groups)
        assert rows[groups == "a"].mean(axis=0) == pytest.approx(0)
        assert rows[groups == "b"].mean(axis=0) == pytest.approx(0)


class TestAgreement:
    def test_cohens_worked_example(self):
        """50 proposals: both yes 20, both no 15, only the first 5, only the second 10: (0.7 - 0.5) / 0.5."""
        pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
        one, two = zip(*pairs, strict=True)
        assert percent_agreement(one, two) == pytest.approx(0.7)
        assert cohen_kappa(one, two) == pytest.approx(0.4)

    def test_fleiss_worked_example(self):
        """Fourteen raters, ten things, five categories: kappa 0.210."""
        table = """0 0 0 0 14;0 2 6 4 2;0 0 3 5 6;0 3 9 2 0;2 2 8 1 1;7 7 0 0 0;3 2 6 3 0;2 5 3 2 2;6 5 2 1 0;0 2 2 3 7"""
        rows = [
            [c for c, n in enumerate(map(int, row.split())) for _ in range(n)] for row in table.split(";")
        ]
        assert fleiss_kappa(rows) == pytest.approx(0.210, abs=5e-4)

    def test_full_agreement_is_one(self):
        assert cohen_kappa("abab", "abab") == 1
        assert fleiss_kappa(["aaa", "bbb"]) == pytest.approx(1)

    def test_one_category_tells_nothing(self):
        assert math.isnan(cohen_kappa("aaa", "aaa"))
        assert percent_agreement("aaa", "aaa") == 1
        assert math.isnan(cohen_kappa([], []))
        assert math.isnan(fleiss_kappa([]))

    def test_unequal_numbers_of_ratings_are_refused(self):
        with pytest.raises(ValueError, match="same number of ratings"):
            fleiss_kappa(["aa", "aab"])
