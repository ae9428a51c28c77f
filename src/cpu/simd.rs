//! The vector instructions that kernels are written in, and the choice of instruction set.
//!
//! A kernel is a struct that implements [`Kernel`]: its `run` is generic over [`Simd`] and marked `#[inline(always)]`,
//! so that [`dispatch`] compiles it once per instruction set inside a function that enables that set. A value of a
//! `Simd` type is the proof that the set exists on this machine, which is why its methods are safe where they touch
//! no memory.
#![allow(unsafe_code)] // intrinsics and raw loads live here; see each SAFETY note

use std::sync::OnceLock;

use half::{bf16, f16};

/// An instruction set that the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// 16 lanes of f32, masked tails.
    Avx512,
    /// 8 lanes of f32 with fused multiply-add; f16 conversion.
    Avx2,
    /// Plain Rust, for every target.
    Portable,
}

impl Isa {
    /// The best instruction set of this machine, detected once.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Isa::available()[0])
    }

    /// The instruction sets that this machine has, best first; never empty.
    pub fn available() -> Vec<Isa> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if x86::has_avx512() {
                sets.push(Isa::Avx512);
            }
            if x86::has_avx2() {
                sets.push(Isa::Avx2);
            }
        }
        sets.push(Isa::Portable);
        sets
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Portable => "portable",
        })
    }
}

/// Work that can run on any instruction set with one result.
pub trait Kernel {
    /// What the work returns.
    type Output;
    /// Does the work. Implementations are `#[inline(always)]`, or they run without the instruction set.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `kernel` on `isa`; an instruction set that this machine lacks falls back to the portable one, whose result is
/// the same bits.
pub fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if x86::has_avx512() => {
            // SAFETY: the set was detected on this machine.
            unsafe { x86::on_avx512(kernel) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if x86::has_avx2() => {
            // SAFETY: the set was detected on this machine.
            unsafe { x86::on_avx2(kernel) }
        }
        _ => kernel.run(Portable(())),
    }
}

/// A vector of f32 lanes and what kernels do with it. Each operation rounds as IEEE 754 does, lane by lane.
pub trait Simd: Copy {
    /// Lanes of one vector; divides 32.
    const LANES: usize;
    /// Rows of a matrix product's tile: as many as leave each sum of two vectors per row in a register.
    const TILE_ROWS: usize;
    /// The vector.
    type F32: Copy;

    /// Every lane `x`.
    fn splat(self, x: f32) -> Self::F32;
    /// Lane-wise `a * b + c`, rounded once.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// Lane-wise sum.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Lane-wise larger value; NaN where either is NaN.
    fn max_or_nan(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `mul_add` in the first `n` lanes, `c` unchanged in the rest. `n <= LANES`.
    fn mul_add_first(self, n: usize, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The sum of the lanes of each of eight vectors by a pairwise tree: lane l with l ^ LANES/2, then l ^ LANES/4, down
    /// to l ^ 1.
    fn tree_sums(self, v: [Self::F32; 8]) -> [f32; 8];

    /// Reads `LANES` values.
    ///
    /// # Safety
    /// `from` is valid for reads of `LANES` f32; any alignment of f32.
    unsafe fn load(self, from: *const f32) -> Self::F32;
    /// Reads the first `n` lanes, 0 in the rest. `n <= LANES`.
    ///
    /// # Safety
    /// `from` is valid for reads of `n` f32.
    unsafe fn load_first(self, n: usize, from: *const f32) -> Self::F32;
    /// Reads `LANES` half-precision values, exactly.
    ///
    /// # Safety
    /// `from` is valid for reads of `LANES` f16; any alignment of f16.
    unsafe fn load_f16(self, from: *const f16) -> Self::F32;
    /// Reads `LANES` bfloat16 values, exactly.
    ///
    /// # Safety
    /// `from` is valid for reads of `LANES` bf16; any alignment of bf16.
    unsafe fn load_bf16(self, from: *const bf16) -> Self::F32;
    /// Asks for the cache line of an address, which may be any address.
    fn prefetch<T>(self, from: *const T);
    /// Writes `LANES` values.
    ///
    /// # Safety
    /// `to` is valid for writes of `LANES` f32; any alignment of f32.
    unsafe fn store(self, value: Self::F32, to: *mut f32);
    /// Writes the first `n` lanes. `n <= LANES`.
    ///
    /// # Safety
    /// `to` is valid for writes of `n` f32.
    unsafe fn store_first(self, n: usize, value: Self::F32, to: *mut f32);
}

/// Eight lanes of plain Rust.
#[derive(Clone, Copy)]
pub struct Portable(());

impl Simd for Portable {
    const LANES: usize = 8;
    const TILE_ROWS: usize = 4;
    type F32 = [f32; 8];

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    fn mul_add(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn add(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn max_or_nan(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] > b[i] || a[i].is_nan() { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn mul_add_first(self, n: usize, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if i < n { a[i].mul_add(b[i], c[i]) } else { c[i] })
    }
    #[inline(always)]
    fn tree_sums(self, v: [[f32; 8]; 8]) -> [f32; 8] {
        v.map(|x| {
            let [a, b, c, d] = [x[0] + x[4], x[1] + x[5], x[2] + x[6], x[3] + x[7]];
            (a + c) + (b + d)
        })
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> [f32; 8] {
        // SAFETY: the caller answers for 8 readable f32; an array of f32 has the alignment of f32.
        unsafe { from.cast::<[f32; 8]>().read() }
    }
    #[inline(always)]
    unsafe fn load_first(self, n: usize, from: *const f32) -> [f32; 8] {
        // SAFETY: only lanes below n are read, which the caller answers for.
        std::array::from_fn(|i| if i < n { unsafe { from.add(i).read() } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> [f32; 8] {
        // SAFETY: the caller answers for 8 readable f16; an array of f16 has the alignment of f16.
        unsafe { from.cast::<[f16; 8]>().read() }.map(f16::to_f32)
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> [f32; 8] {
        // SAFETY: the caller answers for 8 readable bf16; an array of bf16 has the alignment of bf16.
        unsafe { from.cast::<[bf16; 8]>().read() }.map(bf16::to_f32)
    }
    #[inline(always)]
    fn prefetch<T>(self, _: *const T) {}
    #[inline(always)]
    unsafe fn store(self, value: [f32; 8], to: *mut f32) {
        // SAFETY: the caller answers for 8 writable f32.
        unsafe { to.cast::<[f32; 8]>().write(value) }
    }
    #[inline(always)]
    unsafe fn store_first(self, n: usize, value: [f32; 8], to: *mut f32) {
        for (i, x) in value.into_iter().enumerate().take(n) {
            // SAFETY: only lanes below n are written, which the caller answers for.
            unsafe { to.add(i).write(x) }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Kernel, Simd};
    use half::{bf16, f16};
    use std::arch::x86_64::*;

    /// Whether the machine has what [`on_avx512`] enables.
    pub(super) fn has_avx512() -> bool {
        std::arch::is_x86_feature_detected!("avx512f")
    }

    /// Whether the machine has what [`on_avx2`] enables.
    pub(super) fn has_avx2() -> bool {
        std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("f16c")
    }

    /// # Safety
    /// [`has_avx512`].
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn on_avx512<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx512(()))
    }

    /// # Safety
    /// [`has_avx2`].
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn on_avx2<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx2(()))
    }

    /// Made only by [`on_avx512`].
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(());

    /// The mask of the first `n` of 16 lanes.
    #[inline(always)]
    fn first16(n: usize) -> __mmask16 {
        debug_assert!(n <= 16);
        u16::try_from((1u32 << n) - 1).unwrap_or(u16::MAX)
    }

    // SAFETY, for every block below: a value of `Avx512` exists only inside `on_avx512`, so the machine has the
    // instructions; the masked forms touch only the lanes below n, and the pointers are the caller's to answer for.
    impl Simd for Avx512 {
        const LANES: usize = 16;
        const TILE_ROWS: usize = 14;
        type F32 = __m512;

        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn add(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn max_or_nan(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_mask_mov_ps(_mm512_max_ps(a, b), _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a), a) }
        }
        #[inline(always)]
        fn mul_add_first(self, n: usize, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_mask3_fmadd_ps(a, b, c, first16(n)) }
        }
        #[inline(always)]
        fn tree_sums(self, v: [__m512; 8]) -> [f32; 8] {
            // Each step adds one half of what is left of every vector to the other half and packs two vectors into one.
            let mut sums = [0.0; 8];
            // SAFETY: as above; `sums` has room for the 8 values stored.
            unsafe {
                let fold8 = |a, b| {
                    let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
                    let high = _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b);
                    _mm512_add_ps(low, high)
                };
                let fold4 = |a, b| {
                    let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
                    let odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
                    _mm512_add_ps(even, odd)
                };
                let low = fold4(fold8(v[0], v[1]), fold8(v[2], v[3])); // 4 lanes of each of vectors 0, 1, 2, 3
                let high = fold4(fold8(v[4], v[5]), fold8(v[6], v[7]));
                let first = _mm512_shuffle_ps::<0b01_00_01_00>(low, high);
                let second = _mm512_shuffle_ps::<0b11_10_11_10>(low, high);
                let pairs = _mm512_add_ps(first, second); // 2 lanes of each of 0, 4, 1, 5, 2, 6, 3, 7
                let all = _mm512_add_ps(pairs, _mm512_permute_ps::<0b10_11_00_01>(pairs));
                let order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
                let all = _mm512_castps512_ps256(_mm512_permutexvar_ps(order, all));
                _mm256_storeu_ps(sums.as_mut_ptr(), all);
            }
            sums
        }
        #[inline(always)]
        unsafe fn load(self, from: *const f32) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn load_first(self, n: usize, from: *const f32) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_maskz_loadu_ps(first16(n), from) }
        }
        #[inline(always)]
        unsafe fn load_f16(self, from: *const f16) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
        }
        #[inline(always)]
        unsafe fn load_bf16(self, from: *const bf16) -> __m512 {
            // SAFETY: as above; a bf16 is the upper half of the f32 of the same value.
            unsafe {
                let low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(low))
            }
        }
        #[inline(always)]
        fn prefetch<T>(self, from: *const T) {
            // SAFETY: every x86-64 machine has the instruction, and it never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
        }
        #[inline(always)]
        unsafe fn store(self, value: __m512, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(to, value) }
        }
        #[inline(always)]
        unsafe fn store_first(self, n: usize, value: __m512, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_ps(to, first16(n), value) }
        }
    }

    /// Made only by [`on_avx2`].
    #[derive(Clone, Copy)]
    pub(super) struct Avx2(());

    /// The mask of the first `n` of 8 lanes, as `_mm256_maskload_ps` and the blend read it.
    #[inline(always)]
    fn first8(n: usize) -> __m256i {
        debug_assert!(n <= 8);
        const WINDOW: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: n <= 8, so the eight values read lie in the window; the callers hold an `Avx2`.
        unsafe { _mm256_loadu_si256(WINDOW.as_ptr().add(8 - n.min(8)).cast()) }
    }

    // SAFETY, for every block below: a value of `Avx2` exists only inside `on_avx2`, so the machine has the
    // instructions; the masked forms touch only the lanes below n, and the pointers are the caller's to answer for.
    impl Simd for Avx2 {
        const LANES: usize = 8;
        const TILE_ROWS: usize = 6;
        type F32 = __m256;

        #[inline(always)]
        fn splat(self, x: f32) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn add(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        fn max_or_nan(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a)) }
        }
        #[inline(always)]
        fn mul_add_first(self, n: usize, a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_blendv_ps(c, _mm256_fmadd_ps(a, b, c), _mm256_castsi256_ps(first8(n))) }
        }
        #[inline(always)]
        fn tree_sums(self, v: [__m256; 8]) -> [f32; 8] {
            // Each step adds one half of what is left of every vector to the other half and packs two vectors into one.
            let mut sums = [0.0; 8];
            // SAFETY: as above; `sums` has room for the 8 values stored.
            unsafe {
                let fold4 = |a, b| {
                    let low = _mm256_permute2f128_ps::<0x20>(a, b);
                    let high = _mm256_permute2f128_ps::<0x31>(a, b);
                    _mm256_add_ps(low, high)
                };
                let fold2 = |a, b| {
                    let low = _mm256_shuffle_ps::<0b01_00_01_00>(a, b);
                    let high = _mm256_shuffle_ps::<0b11_10_11_10>(a, b);
                    _mm256_add_ps(low, high)
                };
                let low = fold2(fold4(v[0], v[1]), fold4(v[2], v[3])); // 2 lanes of each of vectors 0, 2, 1, 3
                let high = fold2(fold4(v[4], v[5]), fold4(v[6], v[7]));
                let even = _mm256_shuffle_ps::<0b10_00_10_00>(low, high);
                let odd = _mm256_shuffle_ps::<0b11_01_11_01>(low, high);
                let all = _mm256_add_ps(even, odd); // vectors 0, 2, 4, 6, 1, 3, 5, 7
                let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                _mm256_storeu_ps(sums.as_mut_ptr(), _mm256_permutevar8x32_ps(all, order));
            }
            sums
        }
        #[inline(always)]
        unsafe fn load(self, from: *const f32) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn load_first(self, n: usize, from: *const f32) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_maskload_ps(from, first8(n)) }
        }
        #[inline(always)]
        unsafe fn load_f16(self, from: *const f16) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
        }
        #[inline(always)]
        unsafe fn load_bf16(self, from: *const bf16) -> __m256 {
            // SAFETY: as above; a bf16 is the upper half of the f32 of the same value.
            unsafe {
                let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low))
            }
        }
        #[inline(always)]
        fn prefetch<T>(self, from: *const T) {
            // SAFETY: every x86-64 machine has the instruction, and it never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
        }
        #[inline(always)]
        unsafe fn store(self, value: __m256, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(to, value) }
        }
        #[inline(always)]
        unsafe fn store_first(self, n: usize, value: __m256, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm256_maskstore_ps(to, first8(n), value) }
        }
    }
}
