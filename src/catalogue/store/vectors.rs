//! Ids, vectors and features as one safetensors file.

use super::manifest::Manifest;
use super::{FileNames, HashingReader, HashingWriter, RowFeatures};
use crate::catalogue::{Catalogue, CatalogueError};
use bytemuck::Pod;
use std::io::{self, Write};
use std::path::Path;

pub(super) const FILE: FileNames = ("vectors-", ".safetensors");

pub(super) fn write(
    file: &mut HashingWriter,
    catalogue: &Catalogue,
    features: Option<&RowFeatures>,
) -> io::Result<()> {
    let layout = Layout::new(catalogue.len(), catalogue.dim(), features.map(|f| f.width));
    let layout = layout.ok_or(io::ErrorKind::FileTooLarge)?;
    file.write_all(&layout.header)?;
    file.write_all(bytemuck::cast_slice(catalogue.ids()))?;
    file.write_all(bytemuck::cast_slice(catalogue.vectors()))?;
    features.map_or(Ok(()), |f| file.write_all(bytemuck::cast_slice(&f.data)))
}

pub(super) fn read(
    folder: &Path,
    manifest: &Manifest,
) -> Result<(Catalogue, Option<RowFeatures>), CatalogueError> {
    let mut file = HashingReader::open(folder, &manifest.files.vectors)?;
    // The shape decides every byte of the header and the length, so nothing of the header has to be believed.
    let layout = Layout::new(manifest.rows, manifest.dim, manifest.feature_width)
        .filter(|layout| layout.bytes == manifest.files.vectors.bytes)
        .ok_or_else(|| {
            let Manifest { rows, dim, feature_width, .. } = manifest;
            let reason = format!("the length does not fit {rows} rows of {dim} and {feature_width:?} values");
            file.damaged("header", reason)
        })?;
    let mut header = vec![0; layout.header.len()];
    file.fill(&mut header)?;
    if let Some(at) = (0..header.len()).find(|&at| header[at] != layout.header[at]) {
        return Err(file.damaged("header", format!("byte {at} contradicts the manifest's shape")));
    }
    let ids: Vec<i64> = tensor(&mut file, manifest.rows)?;
    let vectors: Vec<f32> = tensor(&mut file, manifest.rows * manifest.dim)?;
    let features = match manifest.feature_width {
        Some(width) => Some(RowFeatures { width, data: tensor(&mut file, manifest.rows * width)? }),
        None => None,
    };
    file.finish("values")?;
    let catalogue = Catalogue::from_stored(manifest.metric, manifest.dim, ids, vectors)
        .map_err(|e| file.damaged("values", e.to_string()))?;
    if let Some(features) = &features {
        features.check(manifest.rows).map_err(|e| file.damaged("features", e.to_string()))?;
    }
    Ok((catalogue, features))
}

/// The next `count` values; the layout has shown that the file holds them.
fn tensor<T: Pod>(file: &mut HashingReader, count: usize) -> Result<Vec<T>, CatalogueError> {
    let mut values = vec![T::zeroed(); count];
    file.fill(bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}

/// What the shape decides of the file.
struct Layout {
    /// The length of the JSON, the JSON, and spaces up to a multiple of 8.
    header: Vec<u8>,
    /// Length of the file.
    bytes: u64,
}

impl Layout {
    /// `None` if the file would be longer than memory has addresses.
    fn new(rows: usize, dim: usize, feature_width: Option<usize>) -> Option<Layout> {
        let mut end = 0usize;
        let mut entry = |name: &str, dtype: &str, size: usize, shape: &[usize]| {
            let start = end;
            let values = shape.iter().try_fold(size, |product, &n| product.checked_mul(n))?;
            end = end.checked_add(values)?;
            Some(format!(
                r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#
            ))
        };
        let mut entries = vec![entry("ids", "I64", 8, &[rows])?, entry("vectors", "F32", 4, &[rows, dim])?];
        if let Some(width) = feature_width {
            entries.push(entry("features", "F32", 4, &[rows, width])?);
        }
        let mut json = format!("{{{}}}", entries.join(",")).into_bytes();
        json.resize(json.len().next_multiple_of(8), b' ');
        let header = [&u64::try_from(json.len()).ok()?.to_le_bytes()[..], &json].concat();
        let bytes = u64::try_from(end.checked_add(header.len())?).ok()?;
        Some(Layout { header, bytes })
    }
}
