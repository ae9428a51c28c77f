//! Every vector operation on every instruction set against its scalar meaning, bit for bit.
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test
#![allow(unsafe_code)] // the loads and stores under test take pointers

use half::{bf16, f16};
use mercer::cpu::simd::{Isa, Kernel, Simd, dispatch};

/// Values where implementations tend to differ: both zeros, NaN, infinities, subnormals, and sums that round.
const VALUES: [f32; 16] = [
    0.0,
    -0.0,
    1.0,
    -1.5,
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    1e-40,
    -1e-45,
    f32::MAX,
    f32::MIN_POSITIVE,
    0.1,
    1.0 + f32::EPSILON,
    16_777_217.0,
    -3.3e-20,
    7.7e19,
];

fn same(found: f32, expected: f32) -> bool {
    found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan())
}

struct Operations(Isa);

impl Kernel for Operations {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let isa = self.0;
        assert_eq!(32 % S::LANES, 0, "{isa:?}");
        let mut out = [0.0; 32];
        for (i, j, k) in (0..16 * 16 * 16).map(|n| (n / 256, n / 16 % 16, n % 16)) {
            let (a, b, c) = (VALUES[i], VALUES[j], VALUES[k]);
            let (va, vb, vc) = (simd.splat(a), simd.splat(b), simd.splat(c));
            let larger = if a > b { a } else { b };
            let cases = [
                ("splat", va, a),
                ("mul_add", simd.mul_add(va, vb, vc), a.mul_add(b, c)),
                ("add", simd.add(va, vb), a + b),
                ("max_or_nan", simd.max_or_nan(va, vb), if a.is_nan() { a } else { larger }),
            ];
            for (name, vector, expected) in cases {
                // SAFETY: 32 values hold a vector of any set.
                unsafe { simd.store(vector, out.as_mut_ptr()) };
                let bad = out[..S::LANES].iter().find(|&&x| !same(x, expected));
                assert_eq!(bad, None, "{name}({a:?}, {b:?}, {c:?}) on {isa:?}, expected {expected:?}");
            }
        }
    }
}

struct Memory(Isa);

impl Kernel for Memory {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let isa = self.0;
        let from: [f32; 32] = std::array::from_fn(|i| i as f32 + 1.0);
        // Offset 1: no alignment beyond that of the type is asked for.
        for n in 0..=S::LANES {
            let mut out = [-1.0f32; 34];
            // SAFETY: n and LANES values at offset 1 are inside both arrays.
            unsafe { simd.store_first(n, simd.load(from[..].as_ptr()), out[1..].as_mut_ptr()) };
            let expected: [f32; 34] =
                std::array::from_fn(|i| if (1..=n).contains(&i) { i as f32 } else { -1.0 });
            assert_eq!(out, expected, "store_first({n}) on {isa:?}");

            // Exactly n values, the last of an allocation.
            let exact = from[..n].to_vec();
            // SAFETY: n values are readable; the stores have room.
            unsafe { simd.store(simd.load_first(n, exact.as_ptr()), out[1..].as_mut_ptr()) };
            let bad = (0..S::LANES).find(|&i| out[1 + i] != if i < n { from[i] } else { 0.0 });
            assert_eq!(bad, None, "lane of load_first({n}) on {isa:?}");

            let (two, three, five) = (simd.splat(2.0), simd.splat(3.0), simd.splat(5.0));
            // SAFETY: the store has room.
            unsafe { simd.store(simd.mul_add_first(n, two, three, five), out[1..].as_mut_ptr()) };
            let bad = (0..S::LANES).find(|&i| out[1 + i] != if i < n { 11.0 } else { 5.0 });
            assert_eq!(bad, None, "lane of mul_add_first({n}) on {isa:?}");
        }
        let (mut halves, mut brains) = ([f16::ZERO; 33], [bf16::ZERO; 33]);
        for bits in (0..=u16::MAX).step_by(S::LANES) {
            let mut out = [0.0; 64];
            for lane in 0..S::LANES {
                let bits = bits + u16::try_from(lane).unwrap();
                (halves[1 + lane], brains[1 + lane]) = (f16::from_bits(bits), bf16::from_bits(bits));
            }
            // SAFETY: the arrays hold LANES values from offset 1 on, and two vectors fit the output.
            unsafe {
                simd.store(simd.load_f16(halves[1..].as_ptr()), out.as_mut_ptr());
                simd.store(simd.load_bf16(brains[1..].as_ptr()), out[S::LANES..].as_mut_ptr());
            }
            for lane in 0..S::LANES {
                assert!(
                    same(out[lane], halves[1 + lane].to_f32()),
                    "load_f16 {:?} on {isa:?}",
                    halves[1 + lane]
                );
                let found = out[S::LANES + lane];
                assert!(
                    same(found, brains[1 + lane].to_f32()),
                    "load_bf16 {:?} on {isa:?}",
                    brains[1 + lane]
                );
            }
        }
        simd.prefetch(std::ptr::null::<f32>());
    }
}

#[test]
fn operations() {
    Isa::available().into_iter().for_each(|isa| dispatch(isa, Operations(isa)));
}

#[test]
fn memory() {
    Isa::available().into_iter().for_each(|isa| dispatch(isa, Memory(isa)));
}

/// The best set comes first, and plain Rust is always there.
#[test]
fn available() {
    let sets = Isa::available();
    assert_eq!(sets.first(), Some(&Isa::best()));
    assert_eq!(sets.last(), Some(&Isa::Portable));
}
