//! Making a catalogue of vectors and ids.

use mercer::Catalogue;
use mercer::ErrorKind::{Caller, Unsupported};
use mercer::Metric::{Cosine, InnerProduct};
use mercer::cpu::normalize::normalize;

use super::{assert_refused, uniform};

#[test]
fn shapes() {
    let new = |dim, ids: &[i64], values: usize| Catalogue::new(Cosine, dim, ids.to_vec(), vec![1.0; values]);
    assert_refused(new(0, &[], 0), "vectors of 0 elements; 1 to 4096 are supported", Caller);
    assert_refused(new(4097, &[], 0), "vectors of 4097 elements; 1 to 4096 are supported", Unsupported);
    assert_refused(new(3, &[1, 2], 5), "5 values for 2 ids of 3 elements each", Caller);
    assert_eq!(new(4096, &[1], 4096).unwrap().dim(), 4096);
    assert_eq!(new(1, &[1], 1).unwrap().len(), 1);
}

#[test]
fn ids() {
    let new = |ids: &[i64]| Catalogue::new(Cosine, 1, ids.to_vec(), vec![1.0; ids.len()]);
    assert_refused(new(&[3, 0, -1]), "row 2 has id -1; ids are not negative", Caller);
    assert_refused(new(&[9, 3, 5, 3]), "rows 1 and 3 both have id 3", Caller);
    assert_refused(new(&[4, 4]), "rows 0 and 1 both have id 4", Caller);
    let catalogue = new(&[i64::MAX, 0, 77]).unwrap();
    assert_eq!(
        [0, 77, i64::MAX, 1, -1].map(|id| catalogue.row_of(id)),
        [Some(1), Some(2), Some(0), None, None]
    );
    let ascending = new(&[2, 5, 9]).unwrap();
    assert_eq!([2, 5, 9, 3].map(|id| ascending.row_of(id)), [Some(0), Some(1), Some(2), None]);
}

/// Values that have no direction, under both metrics, in rows and in queries.
#[test]
fn bad_values() {
    for metric in [Cosine, InnerProduct] {
        let good = Catalogue::new(metric, 2, vec![1], vec![1.0, 2.0]).unwrap();
        for (values, what) in [
            ([0.0, -0.0], "1 is all zeros"),
            ([1.0, f32::NAN], "1 has NaN at position 1"),
            ([f32::INFINITY, 1.0], "1 has inf at position 0"),
            ([1.0, f32::NEG_INFINITY], "1 has -inf at position 1"),
        ] {
            let vectors = [[1.0, 1.0], values].concat();
            let result = Catalogue::new(metric, 2, vec![7, 8], vectors.clone());
            assert_refused(result, &format!("row {what}"), Caller);
            assert_refused(good.search(&vectors, 1), &format!("query {what}"), Caller);
        }
    }
}

/// Up to a norm of 2^63 no score overflows; past it a row or a query is refused. Cosine has no such limit.
#[test]
fn long_vectors() {
    let limit = 2.0f32.powi(63);
    let element = limit / 64.0; // 4096 of them have the norm 2^63
    let rows = [vec![element; 4096], vec![-element; 4096]].concat();
    let catalogue = Catalogue::new(InnerProduct, 4096, vec![1, 2], rows.clone()).unwrap();
    let answer = &catalogue.search(&rows[..4096], 2).unwrap()[0];
    assert_eq!((answer[0].score, answer[1].score), (2.0f32.powi(126), -2.0f32.powi(126)));

    let mut long = rows;
    long[5000] = long[5000].next_down();
    let message = "row 1 has length 9.223372037123211e18 (L2); inner products are supported up to 2^63";
    assert_refused(Catalogue::new(InnerProduct, 4096, vec![1, 2], long), message, Unsupported);
    let message = "query 0 has length 3.4028234663852886e38 (L2); inner products are supported up to 2^63";
    let one = Catalogue::new(InnerProduct, 1, vec![1], vec![limit]).unwrap();
    assert_refused(one.search(&[f32::MAX], 1), message, Unsupported);
    assert!(Catalogue::new(Cosine, 1, vec![1], vec![f32::MAX]).unwrap().search(&[f32::MAX], 1).is_ok());
}

/// Rows are normalised once, as the definition says, for cosine; kept to the bit otherwise.
#[test]
fn vectors_as_searched() {
    let given = uniform(1, 50 * 7);
    let kept = Catalogue::new(InnerProduct, 7, (0..50).collect(), given.clone()).unwrap();
    assert_eq!(kept.vectors(), given);
    let mut unit = given.clone();
    unit.chunks_mut(7).for_each(|row| normalize(row).unwrap());
    let normalised = Catalogue::new(Cosine, 7, (0..50).collect(), given).unwrap();
    assert_eq!(normalised.vectors(), unit);
    assert_eq!(normalised.vector(3), Some(&unit[21..28]));
    assert_eq!(normalised.vector(50), None);
    assert_eq!(format!("{normalised:?}"), "Catalogue { metric: Cosine, rows: 50, dim: 7 }");
}
