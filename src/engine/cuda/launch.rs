//! The launches of towers: all tables in as few as can be, then networks and layers.

use super::columns::{DeviceColumn, DeviceValues};
use super::encode::{Encoding, Task};
use super::program::Launch;
use super::towers::{Op, Tower};
use crate::cuda::embedding::{self, Bags, Lookup};
use crate::cuda::network::Network;
use crate::cuda::{CudaError, Tensor, pixels};
use crate::model::{MapShape, Pooling};

/// The towers of an encoding that is being put on a stream.
pub(super) struct Towers<'a> {
    pub(super) program: &'a Encoding,
    pub(super) task: Task<'a>,
    pub(super) launch: &'a Launch<'a>,
    /// As the work names them.
    pub(super) columns: &'a [DeviceColumn],
}

impl Towers<'_> {
    /// Runs the towers. Their outputs, `[rows, width]`, are in the order of the runs.
    pub(super) fn enqueue(&self) -> Result<Vec<Tensor>, CudaError> {
        let Towers { program, task, launch, columns } = self;
        let (model, runs) = (task.model, &task.work.runs);
        let outputs = program.outputs.iter().map(|output| output.tensor(launch.memory, model.precision));
        let outputs = outputs.collect::<Result<Vec<Tensor>, CudaError>>()?;
        let mut lookups = Vec::new();
        for ((stage, run), output) in (0..).zip(runs).zip(&outputs) {
            lookups.extend(self.lookup(&run.tower, &columns[run.column], output, stage)?);
        }
        embedding::enqueue(launch.stream, &lookups, &launch.fault)?;

        let workspace = launch.scratch(&program.tower_workspace)?;
        let mut image: Option<(MapShape, Tensor)> = None;
        for (run, output) in runs.iter().zip(&outputs) {
            let (tower, column) = (&run.tower, &columns[run.column]);
            match &tower.op {
                Op::Embedding(_) | Op::Bag { .. } => {} // looked up
                Op::Network(_) if column.rows.most() == 0 => {}
                Op::Network(network) => {
                    let stored = network.stored();
                    let image = match &image {
                        Some((shape, image)) if *shape == stored => image,
                        _ => &image.insert((stored, self.image(tower, network, column)?)).1,
                    };
                    network.enqueue(launch.stream, &column.rows, image, &workspace, output)?;
                }
                Op::Linear(linear) => {
                    let DeviceValues::Dense(values) = &column.values else { return Err(tower.misfit()) };
                    linear.enqueue(launch.stream, &column.rows, values, &workspace, output)?;
                }
                Op::LinearOver { linear, .. } => {
                    let over = run.over.and_then(|over| outputs.get(over));
                    let over = over.ok_or_else(|| tower.misfit())?;
                    linear.enqueue(launch.stream, &column.rows, over, &workspace, output)?;
                }
            }
        }
        Ok(outputs)
    }

    /// The images as a network reads them, normalised: `[rows, height, width, channels]` as [`Network::stored`] says. They
    /// take the place of those of the network before.
    fn image(&self, tower: &Tower, network: &Network, column: &DeviceColumn) -> Result<Tensor, CudaError> {
        let Towers { program, task, launch, .. } = self;
        let (rows, stored, channels) = (&column.rows, network.stored(), network.input().channels);
        let image = program.image.tensor(&launch.memory.scratch, task.model.precision)?;
        let image = image.part(0..rows.most().saturating_mul(stored.len()))?;
        match (&column.values, &task.model.scaling) {
            (DeviceValues::Bytes(bytes), Some(scaling)) => {
                scaling.enqueue(launch.stream, rows, stored, bytes, &image)?;
            }
            (DeviceValues::Floats(floats), _) => {
                pixels::enqueue_cast(launch.stream, rows, channels, stored, floats, &image)?;
            }
            _ => return Err(tower.misfit()),
        }
        Ok(image)
    }

    /// The lookup of a tower that reads a table.
    fn lookup(
        &self,
        tower: &Tower,
        column: &DeviceColumn,
        output: &Tensor,
        stage: u16,
    ) -> Result<Option<Lookup>, CudaError> {
        let (rows, ids, bags) = match (&tower.op, &column.values) {
            (Op::Network(_) | Op::Linear(_) | Op::LinearOver { .. }, _) => return Ok(None),
            (Op::Embedding(rows), DeviceValues::Ids(ids)) => (rows, ids, None),
            (Op::Bag { rows, pooling, padding_id }, DeviceValues::Bags { ids, offsets, weights }) => {
                let weights = weights.clone().filter(|_| *pooling == Pooling::Sum);
                let bags =
                    Bags { offsets: offsets.clone(), weights, pooling: *pooling, padding_id: *padding_id };
                (rows, ids, Some(bags))
            }
            (Op::Embedding(_) | Op::Bag { .. }, _) => return Err(tower.misfit()),
        };
        Ok(Some(Lookup {
            table: rows.table.clone(),
            table_rows: rows.rows,
            width: rows.width,
            items: column.rows.clone(),
            ids: ids.clone(),
            bags,
            unknown: self.task.model.unknown_ids[tower.input as usize],
            output: output.clone(),
            stage,
        }))
    }
}
