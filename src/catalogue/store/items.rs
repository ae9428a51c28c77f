//! The catalogue line of each row.

use super::manifest::Manifest;
use super::{FileNames, HashingReader};
use crate::catalogue::CatalogueError;
use std::path::Path;

pub(super) const FILE: FileNames = ("items-", ".jsonl");

/// One line of text per row; JSON by convention, not parsed here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Items {
    /// The lines, each with a line break behind it.
    text: String,
    /// Where in `text` each line ends, before its line break.
    ends: Vec<usize>,
}

impl Items {
    /// The lines in row order.
    ///
    /// # Errors
    /// [`CatalogueError::ItemLineBreak`], if a line is more than one.
    pub fn new<T: AsRef<str>>(lines: impl IntoIterator<Item = T>) -> Result<Items, CatalogueError> {
        let mut items = Items::default();
        for (row, line) in lines.into_iter().enumerate() {
            let line = line.as_ref();
            if line.contains('\n') {
                return Err(CatalogueError::ItemLineBreak { row });
            }
            items.text.push_str(line);
            items.ends.push(items.text.len());
            items.text.push('\n');
        }
        Ok(items)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The line of a row; `None` past the last row.
    pub fn get(&self, row: usize) -> Option<&str> {
        let end = *self.ends.get(row)?;
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before] + 1);
        Some(&self.text[start..end])
    }

    /// The lines in row order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|row| self.get(row).unwrap_or_default())
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// `None` if the last line has no line break.
    fn from_text(text: String) -> Option<Items> {
        let ends = text.match_indices('\n').map(|(at, _)| at).collect();
        (text.is_empty() || text.ends_with('\n')).then_some(Items { text, ends })
    }
}

pub(super) fn read(folder: &Path, manifest: &Manifest) -> Result<Items, CatalogueError> {
    let mut file = HashingReader::open(folder, &manifest.files.items)?;
    let length = usize::try_from(manifest.files.items.bytes)
        .map_err(|_| file.damaged("lines", "longer than memory".into()))?;
    let mut bytes = vec![0; length];
    file.fill(&mut bytes)?;
    file.finish("lines")?;
    let text = String::from_utf8(bytes).map_err(|e| file.damaged("lines", e.to_string()))?;
    let items = Items::from_text(text)
        .ok_or_else(|| file.damaged("lines", "the last one does not end in a line break".into()))?;
    if items.len() != manifest.rows {
        let reason = format!("{} lines, the manifest says {} rows", items.len(), manifest.rows);
        return Err(file.damaged("lines", reason));
    }
    Ok(items)
}
