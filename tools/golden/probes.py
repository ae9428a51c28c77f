"""Golden words of the conformance probes, from an independent model in numpy: tests/golden/probes.safetensors.

Each probe of emulator/tests/probes*.cu has `name.in`, uint32 [threads, inputs], and `name.out`, uint32 [threads, outputs].
The model states what CUDA's manuals define: matrices as whole matrices, conversions by exact rounding of rationals. A GPU
host may write the file from its own answers (tests/emulator.rs says how); it should not change. Run: python
tools/golden/probes.py
"""

from fractions import Fraction
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

OUTPUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "probes.safetensors"

random = np.random.default_rng(7)
tensors = {}


def put(name, inputs, outputs):
    tensors[f"probe_{name}.in"] = np.ascontiguousarray(inputs, np.uint32)
    tensors[f"probe_{name}.out"] = np.ascontiguousarray(outputs, np.uint32)


# --- matrices: exact values, so that no order of summation matters


def pack(values, dtype):
    """Neighbouring narrow values as 32-bit words, the first in the low bits."""
    return np.ascontiguousarray(values).astype(dtype).view(np.uint32)


def bfloat_bits(x):
    bits = x.astype(np.float32).view(np.uint32)
    assert not (bits & 0xFFFF).any()
    return (bits >> 16).astype(np.uint16)


def half_bits(x):
    return x.astype(np.float16).view(np.uint16)


def fragments(a, b, c, per_word):
    """The registers of each lane, by the tables of the PTX manual (mma.m16n8k16 and m16n8k32)."""
    words_a = np.stack([pack(row, a.dtype) for row in a])  # [16, K / per_word]
    words_b = np.stack([pack(column, b.dtype) for column in b.T])  # [8, K / per_word]
    rows = []
    for lane in range(32):
        group, member = divmod(lane, 4)
        left = [words_a[group, member], words_a[group + 8, member]]
        right = [words_a[group, member + 4], words_a[group + 8, member + 4]]
        columns = [words_b[group, member], words_b[group, member + 4]]
        sums = [c[group, 2 * member], c[group, 2 * member + 1], c[group + 8, 2 * member], c[group + 8, 2 * member + 1]]
        rows.append([*left, *right, *columns, *(int(np.asarray(x).view(np.uint32)) for x in sums)])
    assert words_a.shape[1] == 8 and per_word in (2, 4)
    return np.array(rows, np.uint32)


def accumulators(d):
    return fragments(np.zeros((16, 16), np.uint16), np.zeros((16, 8), np.uint16), d, 2)[:, 6:]


def matrices():
    for name, bits in [("mma_f16", half_bits), ("mma_bf16", bfloat_bits)]:
        a = random.integers(-31, 32, (16, 16)) / 16
        b = random.integers(-31, 32, (16, 8)) / 16
        c = (random.integers(-999, 1000, (16, 8)) / 16).astype(np.float32)
        d = (a @ b + c).astype(np.float32)
        put(name, fragments(bits(a), bits(b), c, 2), accumulators(d))
    a = random.integers(-128, 128, (16, 32)).astype(np.int8)
    b = random.integers(-128, 128, (32, 8)).astype(np.int8)
    c = random.integers(-(2**31), 2**31, (16, 8)).astype(np.int32)
    d = (a.astype(np.int64) @ b.astype(np.int64) + c).astype(np.uint64).astype(np.uint32).view(np.int32)
    put("mma_s8", fragments(a, b, c, 4), accumulators(d))

    a, b = (random.integers(-31, 32, (64, 64)) / 16 for _ in range(2))
    d = (a @ b.T).astype(np.float32).view(np.uint32)
    inputs = np.hstack([pack(half_bits(x), np.uint16).reshape(128, 16) for x in (a, b)])
    thread, i = np.meshgrid(np.arange(128), np.arange(32), indexing="ij")
    row = thread // 32 * 16 + thread % 32 // 4 + i // 2 % 2 * 8
    put("wgmma", inputs, d[row, i // 4 * 8 + thread % 4 * 2 + i % 2])

    m = random.integers(0, 2**16, (4, 8, 8)).astype(np.uint16)
    plain, turned = [pack(x.reshape(4, 32, 2), np.uint16)[..., 0].T for x in (m, m.transpose(0, 2, 1))]
    put("ldmatrix", pack(m.reshape(32, 8), np.uint16), np.hstack([plain, turned]))


# --- operations of a warp


def warp():
    v = random.integers(0, 2**32, 32, dtype=np.uint64)
    lane = np.arange(32)

    def pick(source, width, ok=True):
        inside = (source // width == lane // width) & ok
        return v[np.where(inside, source % 32, lane)]

    wide = (v << 32 | v ^ 0xFFFFFFFF)[lane ^ 1]
    halves = np.where(lane < 16, pick(lane + 4, 16), v[31])
    out = [v[(lane * 7 + 3) % 32], v[lane // 8 * 8 + 5], pick(lane - 5, 16), pick(lane + 3, 8), v[lane ^ 9], v[lane ^ 21]]
    put("shuffle", v[:, None], np.stack([*out, wide & 0xFFFFFFFF, wide >> 32, halves], 1))

    def ballot(predicate, lanes):
        return sum(1 << int(i) for i in lanes if predicate[i])

    v = random.integers(0, 2**31, 32, dtype=np.uint64)
    low, high = lane[:16], lane[16:]

    def match(key, lanes):
        return {int(i): ballot(key == key[i], lanes) for i in lanes}

    found = 2 * int((v == 77).any()) + int((v != 77).all())
    odd = 2 * int((v % 2).any()) + 1
    by_three = match(v & 7, lane)
    by_half = match(v & 3, low) | match(v & 1, high)
    rows = []
    for i in range(32):
        votes = ballot(v & 2, low) if i < 16 else ballot(v & 4, high)
        rows.append([ballot(v & 1, lane), found, odd, by_three[i], votes, by_half[i]])
    put("vote", v[:, None], rows)

    v = random.integers(0, 2**32, 32, dtype=np.uint64)
    signed = v.astype(np.uint32).view(np.int32)
    whole = [v.sum(), v.min(), v.max(), int(signed.min()) % 2**32, int(signed.max()) % 2**32]
    whole += [np.bitwise_and.reduce(v), np.bitwise_or.reduce(v), np.bitwise_xor.reduce(v)]
    rows = [[int(x) % 2**32 for x in [*whole, v[:16].sum() if i < 16 else v[16:].sum()]] for i in range(32)]
    put("reduce", v[:, None], rows)


# --- numbers


def rounded(x, mantissa, least, largest):
    """The rational `x` to nearest, ties to even, of a format; infinite past the largest. Returns a Fraction or +-inf."""
    if x == 0:
        return x
    size, sign = abs(x), -1 if x < 0 else 1
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > size
    unit = Fraction(2) ** (max(exponent, least) - mantissa)
    result = round(size / unit) * unit  # Python rounds ties to even
    return sign * (result if result <= largest else float("inf"))


HALF = (10, -14, Fraction(65504))
BFLOAT = (7, -126, (Fraction(2) - Fraction(1, 2**7)) * 2**127)
FLOAT = (23, -126, (Fraction(2) - Fraction(1, 2**23)) * 2**127)


def to_bits(value, sign, form):
    """Bits of a value that `form` holds exactly; `sign` is that of a zero."""
    if value == 0:
        value = -0.0 if sign else 0.0
    if form is HALF:
        return int(np.float16(float(value)).view(np.uint16))
    bits = int(np.float32(float(value)).view(np.uint32))
    return bits >> 16 if form is BFLOAT else bits


def floats(count):
    special = [0, 1, 0x3F800000, 0x7F7FFFFF, 0x00800000, 0x007FFFFF, 0x33000000, 0x33000001, 0x477FEFFF, 0x477FF000]
    special += [0x387FC000, 0x387FE000, 0x387FFFFF, 0x3F801000, 0x3F803000, 0x3F801001, 0x3F808000, 0x3F818000]
    special += [0x3F808001, 0x7F7F7FFF, 0x7F7F8000, 0x33800000, 0x34400000, 0x337FFFFF]
    special += [x | 0x80000000 for x in special]
    some = random.integers(0, 2**32, count, dtype=np.uint64)
    some[: len(special)] = special
    narrow = slice(len(special), count // 2)  # exponents about those of a half
    some[narrow] = some[narrow] & 0x807FFFFF | random.integers(96, 145, count // 2 - len(special), dtype=np.uint64) << 23
    some = np.where((some >> 23) % 256 == 255, some & 0x807FFFFF, some)  # no NaN, no infinity
    return some.astype(np.uint32)


def value_of(bits):
    return Fraction(float(np.uint32(bits).view(np.float32)))


def conversions():
    words = floats(256)
    words[-4:] = [0x7F800000, 0xFF800000, 0x7FC00000, 0xFF812345]
    rows = []
    for word in words:
        f = np.uint32(word).view(np.float32)
        if np.isnan(f):
            rows.append([0x7FFF, 0x7FFF, 0, 0])
            continue
        x, sign = (f if np.isinf(f) else value_of(word)), word >> 31
        forms = [x if np.isinf(f) else rounded(x, *form) for form in (HALF, BFLOAT)]
        half, bfloat = (to_bits(y, sign, form) for y, form in zip(forms, (HALF, BFLOAT)))
        back = [to_bits(y, sign, FLOAT) for y in forms]
        rows.append([half, bfloat, *back])
    put("convert", words[:, None], rows)


def halves():
    words = random.integers(0, 2**16, (256, 3), dtype=np.uint32)
    words[:8, 0] = [1, 0x3FF, 0x400, 0x7BFF, 0x8001, 0x3C00, 0x3C01, 0xFBFF]
    words[:8, 1] = [1, 0x3FF, 0x8400, 0x7BFF, 0x3C00, 0x1000, 0x3C01, 0xFBFF]
    words[128:, 1] = words[128:, 0] + random.integers(-40, 40, 128).astype(np.uint32) & 0xFFFF  # cancellation
    words = np.where(words >> 10 & 31 == 31, words & 0x83FF | 0x3800, words)
    rows = []
    for a, b, c in words:
        x, y, z = (Fraction(float(np.uint16(w).view(np.float16))) for w in (a, b, c))
        product_sign = (a ^ b) >> 15
        zero_signs = [a & b & 0x8000, a & ~b & 0x8000, product_sign, product_sign and c >> 15]
        exact = [x + y, x - y, x * y, x * y + z]
        out = [to_bits(rounded(e, *HALF), s if e == 0 else e < 0, HALF) for e, s in zip(exact, zero_signs)]
        rows.append([*out, a if x >= y else b, b if x >= y else a])
    put("half", words, rows)


def singles():
    words = np.stack([random.permutation(floats(256)) for _ in range(3)], 1)
    words[:32, 1] = words[:32, 0] + random.integers(-9, 9, 32).astype(np.uint32)  # cancellation
    words[words[:, 1] % 2**31 == 0, 1] = 0x3F800000  # nothing is divided by zero
    words = np.where((words >> 23) % 256 == 255, words & 0x807FFFFF, words)
    rows = []
    for a, b, c in words:
        x, y, z = value_of(a), value_of(b), value_of(c)
        product_sign = (a ^ b) >> 31
        zero_signs = [a & b & 2**31, a & ~b & 2**31, product_sign, product_sign, product_sign and c >> 31]
        exact = [x + y, x - y, x * y, x / y if y else Fraction(0), x * y + z]
        out = [to_bits(rounded(e, *FLOAT), s if e == 0 else e < 0, FLOAT) for e, s in zip(exact, zero_signs)]
        root = int(np.sqrt(np.uint32(a & 0x7FFFFFFF).view(np.float32)).view(np.uint32))
        rows.append([*out, root, out[2]])
    put("float", words, rows)


def bits():
    words = random.integers(0, 2**32, (32, 3), dtype=np.uint64)
    words[:4, 0] = [0, 1, 2**31, 2**32 - 1]
    rows = []
    for a, b, c in words.tolist():
        stored = (b << 32 | a).to_bytes(8, "little")
        chosen = 0
        for i in range(4):
            selector = c >> 4 * i & 15
            byte = stored[selector & 7]
            chosen |= (255 * (byte >> 7) if selector & 8 else byte) << 8 * i
        signed = [np.array([w], np.uint32).view(np.int8).astype(int) for w in (a, b)]
        dot = (int(signed[0] @ signed[1]) + c) % 2**32
        text = f"{a:032b}"
        first = text[::-1].find("1") + 1
        leading = 64 - (a << 32 | b).bit_length()
        rows.append([chosen, dot, text.count("1"), 32 - a.bit_length(), leading, first, int(text[::-1], 2), a * b >> 32])
    put("bits", words, rows)


# --- memory


def memory():
    v = random.integers(0, 2**20, 256, dtype=np.uint64)
    left = ~np.uint64(0) & np.uint64(0xFFFFFFFF)
    ors = np.bitwise_or.reduce(np.uint64(1) << v % 32)
    ands = np.bitwise_and.reduce(left ^ (np.uint64(1) << v % 31))
    wide = min((int(x) << 32 | i) for i, x in enumerate(v))
    out = [v.sum(), v.min(), v.max(), ors, ands, np.bitwise_xor.reduce(v), (2 * v + 1).sum()]
    out += [np.float32((v % 64).sum()).view(np.uint32), (wide >> 32) ^ (wide & 0xFFFFFFFF)]
    stored = np.zeros(256, np.uint64)
    stored[: len(out)] = [int(x) % 2**32 for x in out]
    put("atomic", v[:, None], stored[:, None])

    v = random.integers(0, 2**32, (32, 8), dtype=np.uint64)
    copied = v.copy()
    copied[1::2, 4:] = 0
    put("cp_async", v, copied[::-1])

    for name in ("named_barrier", "mbarrier"):
        v = random.integers(0, 2**32, (128, 4), dtype=np.uint64)
        put(name, v, np.vstack([np.zeros((64, 4), np.uint64), v[63::-1]]))


for make in (matrices, warp, conversions, halves, singles, bits, memory):
    make()
save_file(tensors, OUTPUT)
OUTPUT.chmod(0o644)
