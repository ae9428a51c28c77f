//! Which GPU generations the kernels are compiled for.

use std::fmt::{self, Display};

/// A compute capability as nvcc writes it: `80` is 8.0, `90a` is 9.0 with what only 9.0 has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arch {
    number: u32,
    suffix: Option<char>,
}

const fn arch(number: u32, suffix: Option<char>) -> Arch {
    Arch { number, suffix }
}

/// What the kernels are compiled for where nvcc supports it. Other cards from `MINIMUM` on run the PTX.
const USUAL: [Arch; 6] =
    [arch(80, None), arch(86, None), arch(89, None), arch(90, Some('a')), arch(100, None), arch(120, None)];

/// The oldest generation that has the instructions of the kernels.
const MINIMUM: u32 = 80;

impl Arch {
    /// Reads `80`, `90a`, `sm_80` or `compute_80`.
    pub fn parse(text: &str) -> Option<Arch> {
        let text = text.strip_prefix("sm_").or_else(|| text.strip_prefix("compute_")).unwrap_or(text);
        let digits = text.trim_end_matches(['a', 'f']);
        let suffix = text[digits.len()..].chars().next();
        let is_one = text.len() - digits.len() < 2 && digits.chars().all(|c| c.is_ascii_digit());
        digits.parse().ok().filter(|_| is_one).map(|number| Arch { number, suffix })
    }
}

impl Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}{}", self.number, self.suffix.map(String::from).unwrap_or_default())
    }
}

/// The archs to make machine code for: those that `wanted` lists, which nvcc must support, or else the usual ones that it
/// does support. `listed` is what nvcc lists; it lists no suffixes.
pub fn choose(wanted: Option<&str>, listed: &[Arch]) -> Result<Vec<Arch>, String> {
    let supported = |arch: &Arch| listed.iter().any(|known| known.number == arch.number);
    let Some(wanted) = wanted else {
        return Ok(USUAL.into_iter().filter(supported).collect());
    };
    let mut archs = Vec::new();
    for text in wanted.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let fail = |what: &str| Err(format!("MERCER_CUDA_ARCHS={wanted}: {text}: {what}"));
        let Some(arch) = Arch::parse(text) else {
            return fail("not an architecture; write a list such as 80,90a");
        };
        if arch.number < MINIMUM {
            return fail(&format!("the kernels need {MINIMUM} or later"));
        }
        if !supported(&arch) {
            return fail(&format!("this nvcc supports {}", join(listed)));
        }
        if !archs.contains(&arch) {
            archs.push(arch);
        }
    }
    if archs.is_empty() {
        Err(format!("MERCER_CUDA_ARCHS={wanted}: names no architecture"))
    } else {
        Ok(archs)
    }
}

/// The arch to make PTX for: the oldest, so that it runs on every card that has no machine code here.
pub fn ptx(listed: &[Arch]) -> Result<Arch, String> {
    let plain = listed.iter().filter(|arch| arch.suffix.is_none() && arch.number >= MINIMUM);
    let oldest = plain.min_by_key(|arch| arch.number).copied();
    oldest.ok_or_else(|| format!("nvcc supports {}; the kernels need {MINIMUM} or later", join(listed)))
}

/// The arguments that make nvcc compile the file `name` for `archs` and `ptx`; none if there is nothing to compile. Files
/// whose name ends in `_sm90` use instructions that only 9.0 has: machine code for it and no PTX.
pub fn gencode(name: &str, archs: &[Arch], ptx: Arch) -> Vec<String> {
    let only_sm90 = name.ends_with("_sm90");
    let sm90a = arch(90, Some('a'));
    let archs = archs.iter().filter(|&&arch| !only_sm90 || arch == sm90a);
    let mut arguments: Vec<String> =
        archs.map(|arch| format!("-gencode=arch=compute_{arch},code=sm_{arch}")).collect();
    if !only_sm90 {
        arguments.push(format!("-gencode=arch=compute_{ptx},code=compute_{ptx}"));
    }
    arguments
}

fn join(archs: &[Arch]) -> String {
    archs.iter().map(Arch::to_string).collect::<Vec<_>>().join(", ")
}
