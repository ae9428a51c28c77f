//! The element types of the safetensors format.

use std::fmt;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $bits:literal;)*) => {
        /// The type of a tensor's elements, little-endian in the file. Weights are [`Dtype::F32`], [`Dtype::F16`] or
        /// [`Dtype::BF16`]; the others are known so that a file holding them can be validated and described.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Dtype {
            $($(#[$doc])* $variant,)*
        }

        impl Dtype {
            /// Every dtype of the format.
            pub const ALL: &'static [Dtype] = &[$(Dtype::$variant),*];

            /// Its name in a file's header.
            pub const fn name(self) -> &'static str {
                match self { $(Dtype::$variant => $name),* }
            }

            /// Bits of one element.
            pub const fn bits(self) -> usize {
                match self { $(Dtype::$variant => $bits),* }
            }
        }
    };
}

dtypes! {
    /// One byte, 0 or 1.
    Bool = "BOOL", 8;
    /// 4-bit float E2M1.
    F4 = "F4", 4;
    /// 6-bit float E2M3.
    F6E2M3 = "F6_E2M3", 6;
    /// 6-bit float E3M2.
    F6E3M2 = "F6_E3M2", 6;
    /// Unsigned, 8 bits.
    U8 = "U8", 8;
    /// Signed, 8 bits.
    I8 = "I8", 8;
    /// 8-bit float E5M2.
    F8E5M2 = "F8_E5M2", 8;
    /// 8-bit float E4M3.
    F8E4M3 = "F8_E4M3", 8;
    /// 8-bit power of two.
    F8E8M0 = "F8_E8M0", 8;
    /// 8-bit float E4M3 without infinities and negative zero.
    F8E4M3Fnuz = "F8_E4M3FNUZ", 8;
    /// 8-bit float E5M2 without infinities and negative zero.
    F8E5M2Fnuz = "F8_E5M2FNUZ", 8;
    /// Signed, 16 bits.
    I16 = "I16", 16;
    /// Unsigned, 16 bits.
    U16 = "U16", 16;
    /// IEEE 754 binary16.
    F16 = "F16", 16;
    /// The upper half of a binary32.
    BF16 = "BF16", 16;
    /// Signed, 32 bits.
    I32 = "I32", 32;
    /// Unsigned, 32 bits.
    U32 = "U32", 32;
    /// IEEE 754 binary32.
    F32 = "F32", 32;
    /// Complex, two binary32.
    C64 = "C64", 64;
    /// IEEE 754 binary64.
    F64 = "F64", 64;
    /// Signed, 64 bits.
    I64 = "I64", 64;
    /// Unsigned, 64 bits.
    U64 = "U64", 64;
}

impl Dtype {
    /// The dtype that a header calls `name`.
    pub fn from_name(name: &str) -> Option<Dtype> {
        Dtype::ALL.iter().copied().find(|dtype| dtype.name() == name)
    }

    /// Whether the library computes with it: F32, F16 or BF16.
    pub const fn is_weight(self) -> bool {
        matches!(self, Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
