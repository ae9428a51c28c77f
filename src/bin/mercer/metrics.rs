//! How good rankings and probabilities are: the formulas that `mercer eval` prints, as pure functions.
//!
//! A ranking is given as flags: whether the product at rank 1, 2, … is relevant. `total` is the number of relevant
//! products of the whole catalogue, found or not; a query without any has no retrieval measures.

use serde::Serialize;

/// The cut-off of NDCG.
pub const NDCG_CUT: usize = 10;

/// The measures of one ranking, or their means over several.
#[derive(Debug, Clone, PartialEq)]
pub struct Retrieval {
    /// `recall@k` for each cut-off.
    pub recall: Vec<f64>,
    /// `hit@k` for each cut-off.
    pub hit: Vec<f64>,
    /// The reciprocal rank.
    pub mrr: f64,
    /// `NDCG@10`.
    pub ndcg: f64,
}

impl Retrieval {
    /// The measures of one ranking at the cut-offs `ks`; `None` if nothing is relevant.
    pub fn of(relevant: &[bool], total: usize, ks: &[usize]) -> Option<Retrieval> {
        (total > 0).then(|| Retrieval {
            recall: ks.iter().map(|&k| recall_at(k, relevant, total)).collect(),
            hit: ks.iter().map(|&k| hit_at(k, relevant)).collect(),
            mrr: reciprocal_rank(relevant),
            ndcg: ndcg_at(NDCG_CUT, relevant, total),
        })
    }

    /// The mean of each measure over rankings of the same cut-offs; `None` over none.
    pub fn mean(all: &[&Retrieval]) -> Option<Retrieval> {
        let first = all.first()?;
        let mean =
            |of: &dyn Fn(&Retrieval) -> f64| all.iter().map(|one| of(one)).sum::<f64>() / count(all.len());
        Some(Retrieval {
            recall: (0..first.recall.len()).map(|at| mean(&|one| one.recall[at])).collect(),
            hit: (0..first.hit.len()).map(|at| mean(&|one| one.hit[at])).collect(),
            mrr: mean(&|one| one.mrr),
            ndcg: mean(&|one| one.ndcg),
        })
    }
}

/// The share of the relevant products that the first `k` ranks hold: with more than `k` relevant products it cannot
/// reach 1.
fn recall_at(k: usize, relevant: &[bool], total: usize) -> f64 {
    count(relevant.iter().take(k).filter(|&&relevant| relevant).count()) / count(total)
}

/// 1 if one of the first `k` ranks is relevant, else 0. At `k` = 1 it is also the precision.
fn hit_at(k: usize, relevant: &[bool]) -> f64 {
    f64::from(u8::from(relevant.iter().take(k).any(|&relevant| relevant)))
}

/// 1 / rank of the first relevant product, 0 if the ranking holds none.
fn reciprocal_rank(relevant: &[bool]) -> f64 {
    relevant.iter().position(|&relevant| relevant).map_or(0.0, |at| 1.0 / count(at + 1))
}

/// Normalised discounted cumulative gain with gains 0 and 1: the sum of `1 / log2(rank + 1)` over the relevant of the
/// first `k` ranks, divided by the same sum with all relevant products first.
fn ndcg_at(k: usize, relevant: &[bool], total: usize) -> f64 {
    let discount = |at: usize| 1.0 / count(at + 2).log2();
    let gained: f64 =
        relevant.iter().take(k).enumerate().filter(|(_, r)| **r).map(|(at, _)| discount(at)).sum();
    let ideal: f64 = (0..k.min(total)).map(discount).sum();
    gained / ideal
}

/// How well scores from 0 to 1 tell labels apart. A measure that divides by zero is `None`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Classification {
    /// Scored pairs.
    pub pairs: usize,
    /// Share of pairs on the right side of 0.5.
    pub accuracy: Option<f64>,
    /// Share of the pairs scored 0.5 or more whose label is 1.
    pub precision: Option<f64>,
    /// Share of the pairs with label 1 that are scored 0.5 or more.
    pub recall: Option<f64>,
    /// Area under the ROC curve.
    pub auc: Option<f64>,
}

impl Classification {
    /// The measures of `(score, label)` pairs.
    pub fn of(pairs: &[(f32, bool)]) -> Classification {
        let of = |score: bool, label: bool| {
            pairs.iter().filter(|(s, l)| (*s >= 0.5) == score && *l == label).count()
        };
        let (hits, misses, false_alarms) = (of(true, true), of(false, true), of(true, false));
        let share = |part: usize, whole: usize| (whole > 0).then(|| count(part) / count(whole));
        Classification {
            pairs: pairs.len(),
            accuracy: share(hits + of(false, false), pairs.len()),
            precision: share(hits, hits + false_alarms),
            recall: share(hits, hits + misses),
            auc: auc(pairs),
        }
    }
}

/// The probability that a pair with label 1 scores higher than one with label 0, ties counting half: the Mann-Whitney U
/// statistic over the product of both counts. `None` if a label does not occur.
fn auc(pairs: &[(f32, bool)]) -> Option<f64> {
    let positives = pairs.iter().filter(|(_, label)| *label).count();
    let negatives = pairs.len() - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    let mut sorted = pairs.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut below = 0; // negatives that score lower than the current tie
    let mut wins = 0.0;
    for tie in sorted.chunk_by(|a, b| a.0 == b.0) {
        let ones = tie.iter().filter(|(_, label)| *label).count();
        let zeros = tie.len() - ones;
        wins += count(ones) * (count(below) + count(zeros) / 2.0);
        below += zeros;
    }
    Some(wins / (count(positives) * count(negatives)))
}

#[allow(clippy::cast_precision_loss)] // counts stay far below 2^53
fn count(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: f64 = 1e-12; // a handful of f64 operations on values up to 1

    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= TOLERANCE, "found {found}, expected {expected}");
    }

    #[test]
    fn a_ranking_worked_out_by_hand() {
        // Relevant at ranks 2 and 4; a third relevant product is not in the list.
        let one = Retrieval::of(&[false, true, false, true, false], 3, &[1, 2, 4]).unwrap();
        assert_eq!(one.hit, [0.0, 1.0, 1.0]);
        assert_close(one.recall[0], 0.0);
        assert_close(one.recall[1], 1.0 / 3.0);
        assert_close(one.recall[2], 2.0 / 3.0);
        assert_close(one.mrr, 0.5);
        // DCG = 1/log2(3) + 1/log2(5), ideal = 1 + 1/log2(3) + 1/log2(4).
        assert_close(
            one.ndcg,
            (0.630_929_753_571_457_4 + 0.430_676_558_073_393) / (1.5 + 0.630_929_753_571_457_4),
        );
    }

    #[test]
    fn a_perfect_ranking_is_one_everywhere() {
        let one = Retrieval::of(&[true, true, false], 2, &[2, 3]).unwrap();
        assert_eq!(one, Retrieval { recall: vec![1.0; 2], hit: vec![1.0; 2], mrr: 1.0, ndcg: 1.0 });
    }

    #[test]
    fn cut_offs_beyond_the_list() {
        let one = Retrieval::of(&[false, true], 1, &[1, 10, 50]).unwrap();
        assert_eq!(one.recall, [0.0, 1.0, 1.0]);
        assert_close(one.ndcg, 1.0 / 3f64.log2());
    }

    #[test]
    fn more_relevant_than_the_cut_off() {
        // Recall divides by all 20; NDCG's ideal holds only ten.
        let one = Retrieval::of(&[true; 10], 20, &[1, 10]).unwrap();
        assert_eq!(one.recall, [0.05, 0.5]);
        assert_close(one.ndcg, 1.0);
    }

    #[test]
    fn ndcg_ignores_what_lies_behind_its_cut_off() {
        let mut flags = [false; 12];
        flags[10] = true;
        let one = Retrieval::of(&flags, 1, &[50]).unwrap();
        assert_close(one.ndcg, 0.0);
        assert_close(one.mrr, 1.0 / 11.0);
    }

    #[test]
    fn nothing_relevant_has_no_measures_and_nothing_found_has_zeros() {
        assert_eq!(Retrieval::of(&[false, false], 0, &[1]), None);
        let one = Retrieval::of(&[], 2, &[1]).unwrap();
        assert_eq!(one, Retrieval { recall: vec![0.0], hit: vec![0.0], mrr: 0.0, ndcg: 0.0 });
    }

    #[test]
    fn means() {
        let a = Retrieval::of(&[true], 1, &[1]).unwrap();
        let b = Retrieval::of(&[false, true], 1, &[1]).unwrap();
        let mean = Retrieval::mean(&[&a, &b]).unwrap();
        assert_eq!((mean.recall[0], mean.hit[0], mean.mrr), (0.5, 0.5, 0.75));
        assert_eq!(Retrieval::mean(&[]), None);
    }

    #[test]
    fn classification_worked_out_by_hand() {
        // Two hits, one miss, one false alarm, one true negative; 0.5 counts as yes.
        let found = Classification::of(&[(0.9, true), (0.5, true), (0.4, true), (0.6, false), (0.1, false)]);
        assert_eq!(found.pairs, 5);
        assert_close(found.accuracy.unwrap(), 0.6);
        assert_close(found.precision.unwrap(), 2.0 / 3.0);
        assert_close(found.recall.unwrap(), 2.0 / 3.0);
        // Of the 6 (one, zero) pairs, 0.9 wins two, 0.5 one, 0.4 one.
        assert_close(found.auc.unwrap(), 4.0 / 6.0);
    }

    #[test]
    fn ties_count_half() {
        assert_close(auc(&[(0.5, true), (0.5, false)]).unwrap(), 0.5);
        // 0.7 beats 0.5 and 0.2; the 0.5 ties with one and beats the other: 3.5 of 4.
        assert_close(auc(&[(0.7, true), (0.5, true), (0.5, false), (0.2, false)]).unwrap(), 3.5 / 4.0);
        assert_close(auc(&[(0.1, true), (0.9, false)]).unwrap(), 0.0);
    }

    #[test]
    fn measures_that_divide_by_zero_are_none() {
        let none = Classification { pairs: 0, accuracy: None, precision: None, recall: None, auc: None };
        assert_eq!(Classification::of(&[]), none);
        let found = Classification::of(&[(0.1, false)]);
        assert_eq!((found.accuracy, found.precision, found.recall, found.auc), (Some(1.0), None, None, None));
    }
}
