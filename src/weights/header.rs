//! A safetensors file's header: parsed, and every claim in it checked against the file.
//!
//! Layout of a file: 8 bytes, the header's length `n`, little-endian; `n` bytes of JSON, `{"name": {"dtype": "F32",
//! "shape": [2, 3], "data_offsets": [begin, end]}, …}`, padded with spaces at will; then the data, which the offsets
//! count from.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::json::{Object, StringMap, first_duplicate, shorten};
use super::{Dtype, WeightsError};

/// Most bytes of a header, the limit of the format.
pub const MAX_HEADER_BYTES: usize = 100_000_000;
/// Most tensors of one file.
pub const MAX_TENSORS: usize = 1 << 18;
/// Most dimensions of a tensor.
pub const MAX_RANK: usize = 32;
/// Most bytes of a tensor's name.
pub const MAX_NAME_BYTES: usize = 1024;

const METADATA: &str = "__metadata__";
const LENGTH_BYTES: usize = 8;

/// A tensor whose claims hold.
pub(super) struct TensorInfo {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Its bytes, counted from the start of the file.
    pub(super) range: Range<usize>,
}

/// Parses the header of a file whose whole content is `bytes`, and checks it.
pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Vec<TensorInfo>, WeightsError> {
    let truncated = |needed| WeightsError::HeaderTruncated { file: file.into(), needed, len: bytes.len() };
    let (length, rest) = bytes.split_first_chunk().ok_or_else(|| truncated(LENGTH_BYTES))?;
    let declared = u64::from_le_bytes(*length);
    let header_len = usize::try_from(declared)
        .ok()
        .filter(|&len| len <= MAX_HEADER_BYTES)
        .ok_or_else(|| WeightsError::HeaderTooLarge { file: file.into(), len: declared })?;
    let data_start = LENGTH_BYTES + header_len;
    let (text, data) = rest.split_at_checked(header_len).ok_or_else(|| truncated(data_start))?;
    let text = text.to_vec(); // a mapped file might change between two looks at a byte
    if let Some(&first) = text.first().filter(|&&first| first != b'{') {
        return Err(WeightsError::HeaderStart { file: file.into(), first });
    }

    let mut tensors = parse_json(file, &text)?
        .into_iter()
        .map(|(name, raw)| check_tensor(file, name, raw))
        .collect::<Result<Vec<_>, _>>()?;
    check_layout(file, &mut tensors, data.len())?;
    for tensor in &mut tensors {
        // The layout lies within the file, so no sum overflows.
        tensor.range = tensor.range.start + data_start..tensor.range.end + data_start;
    }
    Ok(tensors)
}

fn parse_json(file: &Path, text: &[u8]) -> Result<Vec<(String, RawTensor)>, WeightsError> {
    let mut header = RawHeader::default();
    let mut json = serde_json::Deserializer::from_slice(text);
    if let Err(source) = header.deserialize(&mut json).and_then(|()| json.end()) {
        let tensor = header.current.as_deref().map(shorten);
        return Err(WeightsError::BadHeader { file: file.into(), tensor, source });
    }
    if header.tensors.len() > MAX_TENSORS {
        return Err(WeightsError::TooManyTensors { file: file.into(), found: header.tensors.len() });
    }
    if let Some((name, _)) = header.tensors.iter().find(|(name, _)| name.len() > MAX_NAME_BYTES) {
        return Err(WeightsError::NameTooLong { file: file.into(), start: shorten(name), len: name.len() });
    }
    if let Some(name) = first_duplicate(header.tensors.iter().map(|(name, _)| name)) {
        return Err(WeightsError::DuplicateTensor { file: file.into(), tensor: name.into() });
    }
    if let Some(key) = first_duplicate(header.metadata.iter().map(|(key, _)| key)) {
        return Err(WeightsError::DuplicateKey { file: file.into(), object: METADATA, key: shorten(key) });
    }
    Ok(header.tensors)
}

/// What one tensor claims about itself; its range still counts from the start of the data.
fn check_tensor(file: &Path, name: String, raw: RawTensor) -> Result<TensorInfo, WeightsError> {
    let file = file.to_path_buf();
    let Some(dtype) = Dtype::from_name(&raw.dtype) else {
        return Err(WeightsError::UnknownDtype { file, tensor: name, dtype: shorten(&raw.dtype) });
    };
    if raw.shape.rank > MAX_RANK {
        return Err(WeightsError::RankTooLarge { file, tensor: name, rank: raw.shape.rank });
    }
    let shape = raw.shape.dims;
    let elements = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
    let Some(bits) = elements.and_then(|elements| elements.checked_mul(dtype.bits())) else {
        return Err(WeightsError::Overflow { file, tensor: name, dtype, shape });
    };
    if bits % 8 != 0 {
        return Err(WeightsError::PartialByte { file, tensor: name, dtype, shape, bits });
    }
    let [begin, end] = raw.data_offsets;
    let Some(found) = end.checked_sub(begin) else {
        return Err(WeightsError::BadOffsets { file, tensor: name, begin, end });
    };
    if found != bits / 8 {
        return Err(WeightsError::WrongLength { file, tensor: name, dtype, shape, needed: bits / 8, found });
    }
    Ok(TensorInfo { name, dtype, shape, range: begin..end })
}

/// Sorts the tensors by position; they must cover `0..data_len` exactly.
fn check_layout(file: &Path, tensors: &mut [TensorInfo], data_len: usize) -> Result<(), WeightsError> {
    tensors.sort_unstable_by(|a, b| {
        (a.range.start, a.range.end, &a.name).cmp(&(b.range.start, b.range.end, &b.name))
    });
    let file = file.to_path_buf();
    let mut covered = 0;
    for (i, tensor) in tensors.iter().enumerate() {
        if tensor.range.start < covered {
            let first = &tensors[i - 1]; // covered is 0 at the first tensor
            return Err(WeightsError::Overlap {
                file,
                first: first.name.clone(),
                first_bytes: first.range.clone(),
                second: tensor.name.clone(),
                second_bytes: tensor.range.clone(),
            });
        }
        if tensor.range.start > covered {
            return Err(WeightsError::Hole {
                file,
                bytes: covered..tensor.range.start,
                tensor: tensor.name.clone(),
            });
        }
        covered = tensor.range.end;
        if covered > data_len {
            return Err(WeightsError::DataTruncated {
                file,
                tensor: tensor.name.clone(),
                end: covered,
                data_len,
            });
        }
    }
    if covered < data_len {
        return Err(WeightsError::TrailingBytes { file, end: covered, data_len });
    }
    Ok(())
}

/// The header as JSON says it: duplicates kept, nothing checked but the types.
#[derive(Default)]
struct RawHeader {
    tensors: Vec<(String, RawTensor)>,
    metadata: Vec<(String, String)>,
    has_metadata: bool,
    /// The tensor being parsed, for the error message.
    current: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: RawShape,
    data_offsets: [usize; 2],
}

impl<'de> DeserializeSeed<'de> for &mut RawHeader {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut RawHeader {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                if std::mem::replace(&mut self.has_metadata, true) {
                    return Err(serde::de::Error::duplicate_field(METADATA));
                }
                self.metadata = map.next_value::<StringMap>()?.0;
            } else {
                let name = self.current.insert(name);
                let tensor = map.next_value_seed(Object(PhantomData))?;
                self.tensors.push((std::mem::take(name), tensor));
                self.current = None;
            }
        }
        Ok(())
    }
}

/// A shape of any rank, of which at most [`MAX_RANK`] dimensions are kept.
struct RawShape {
    dims: Vec<usize>,
    rank: usize,
}

impl<'de> Deserialize<'de> for RawShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawShape, D::Error> {
        struct Dims;
        impl<'de> Visitor<'de> for Dims {
            type Value = RawShape;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawShape, A::Error> {
                let mut dims = Vec::new();
                while dims.len() < MAX_RANK {
                    match seq.next_element()? {
                        Some(dim) => dims.push(dim),
                        None => return Ok(RawShape { rank: dims.len(), dims }),
                    }
                }
                let mut rank = dims.len();
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    rank += 1;
                }
                Ok(RawShape { dims, rank })
            }
        }
        deserializer.deserialize_seq(Dims)
    }
}
