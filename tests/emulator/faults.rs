//! Planted faults: emulator/tests/faults.cu has one kernel per fault, which stores its input in reverse if nobody looks
//! closely. The tables say who notices: the plain build in each order of threads, a sanitizer or the race detector.

use crate::Turn;
use crate::driver::{Answer, Context, DEFAULT_STREAM, Shape, explain};
use crate::variant::Variant;

const N: u16 = 256;

/// What a run shows.
#[derive(Debug, PartialEq, Clone, Copy)]
enum Sign {
    /// The right answer.
    Nothing,
    /// A wrong answer.
    Wrong,
    /// An error whose message has this.
    Says(&'static str),
}

use Sign::{Nothing, Says, Wrong};

/// Kernel; in order; in reverse; in one of twenty random orders at least.
const PLAIN: [(&str, Sign, Sign, Sign); 28] = [
    ("ok_reverse", Nothing, Nothing, Nothing),
    ("oob_global_write", Says("illegal memory access"), Says("illegal"), Says("illegal")),
    ("oob_global_read", Says("illegal memory access"), Says("illegal"), Says("illegal")),
    ("oob_shared_write", Says("past the end of 's'"), Says("past the end"), Says("past the end")),
    ("oob_dyn_write", Says("past the end of dynamic"), Says("past the end"), Says("past the end")),
    ("oob_shared_read", Nothing, Nothing, Nothing),
    ("missing_sync_raw", Wrong, Wrong, Wrong),
    ("missing_sync_left", Nothing, Wrong, Wrong),
    ("missing_sync_war", Wrong, Wrong, Wrong),
    ("missing_syncwarp", Wrong, Wrong, Wrong),
    ("shfl_is_no_fence", Nothing, Nothing, Nothing),
    ("divergent_sync", Says("divergent __syncthreads"), Says("divergent"), Says("__syncthreads")),
    ("sync_after_exit", Says("thread exits while"), Says("have exited"), Says("exit")),
    ("full_mask_in_branch", Says("exits while lane"), Says("have exited"), Says("exit")),
    ("misaligned_vec", Nothing, Nothing, Nothing),
    ("cp_async_no_wait", Wrong, Wrong, Wrong),
    ("cp_async_wait_one_off", Wrong, Wrong, Wrong),
    ("cp_async_no_sync", Wrong, Wrong, Wrong),
    ("cp_async_overwrites", Wrong, Wrong, Wrong),
    ("cp_async_never_waited", Says("not waited for"), Says("not waited for"), Says("not waited for")),
    ("uninit_shared", Wrong, Wrong, Wrong),
    ("race_global", Nothing, Nothing, Nothing),
    ("lost_update", Nothing, Nothing, Nothing),
    ("unwritten_output", Wrong, Wrong, Wrong),
    ("spin_forever", Says("livelock"), Says("livelock"), Says("livelock")),
    ("ldmatrix_misaligned", Says("not 16-byte aligned"), Says("aligned"), Says("aligned")),
    ("divide_by_zero", Says("integer division by zero"), Says("division"), Says("division")),
    ("block_race", Nothing, Nothing, Nothing),
];

/// What the address and undefined-behaviour sanitizers say.
const BOUNDS: [(&str, &str); 6] = [
    ("oob_global_write", "heap-buffer-overflow"),
    ("oob_global_read", "heap-buffer-overflow"),
    ("oob_shared_write", "use-after-poison"),
    ("oob_dyn_write", "use-after-poison"),
    ("oob_shared_read", "use-after-poison"),
    ("misaligned_vec", "misaligned address"),
];

/// What the race detector finds.
const RACES: [&str; 29] = [
    "missing_sync_raw",
    "missing_sync_left",
    "missing_sync_war",
    "missing_syncwarp",
    "shfl_is_no_fence",
    "barrier_of_others",
    "cp_async_no_wait",
    "cp_async_wait_one_off",
    "cp_async_sync_too_early",
    "cp_async_no_sync",
    "cp_async_overwrites",
    "race_global",
    "lost_update",
    "lost_sum",
    "lost_sum_of_warps",
    "sum_starts_late",
    "block_race",
    "fence_missing_before",
    "fence_missing_after",
    "fence_too_early",
    "fence_of_block_before",
    "fence_of_block_after",
    "fence_without_barrier",
    "fence_missing_at_reset",
    "fence_missing_in_relay",
    "fence_of_block_in_relay",
    "fence_of_block_handing_on",
    "flag_without_fences",
    "flag_without_fence_after",
];

/// What it must not take for a race.
const ORDERED: [&str; 8] = [
    "ok_reverse",
    "fence_right",
    "fence_by_all",
    "fence_right_in_relay",
    "fence_not_needed_in_relay",
    "fence_right_handing_on",
    "fence_once_handing_on",
    "flag_right",
];

fn run(kernel: &str) -> Sign {
    let context = Context::new().unwrap();
    let right: Vec<f32> = (1..=N).rev().map(f32::from).collect();
    let answer = (|| -> Answer<Vec<f32>> {
        let function = context.function(context.module(b"EMU-MODULE faults\0")?, kernel)?;
        let bytes = 4 * usize::from(N);
        let hands_over = kernel.starts_with("fence_");
        let room = if hands_over { 2 * bytes + 8 } else { bytes };
        let (input, output) = (context.allocate(bytes)?, context.allocate(room)?);
        context.upload(input, &(1..=N).map(f32::from).collect::<Vec<_>>())?;
        let grid = match kernel {
            _ if kernel.ends_with("_relay") => 3,
            _ if hands_over || kernel == "block_race" => 2,
            _ => 1,
        };
        let mut shape = Shape::new(grid, u32::from(N));
        shape.shared = if kernel == "oob_dyn_write" { 4 * u32::from(N) } else { 0 };
        context.launch(function, shape, DEFAULT_STREAM, &[input, output, N.into()])?;
        let mut result = vec![0.0; N.into()];
        context.download(&mut result, output)?;
        Ok(result)
    })();
    match answer {
        Ok(result) if result == right => Nothing,
        Ok(_) => Wrong,
        Err(code) => Says(explain(code).leak()),
    }
}

fn shows(found: Sign, expected: Sign) -> bool {
    match (found, expected) {
        (Says(found), Says(expected)) => found.contains(expected),
        (found, expected) => found == expected,
    }
}

#[test]
fn planted_faults_are_noticed_in_the_plain_build() {
    let turn = Turn::new();
    for (kernel, in_order, reverse, random) in PLAIN {
        for (order, expected) in [(0, in_order), (1, reverse)] {
            turn.emulator.schedule(order, 1);
            let found = run(kernel);
            assert!(shows(found, expected), "{kernel}, order {order}: {found:?} instead of {expected:?}");
        }
        let seeds = if random == Nothing || kernel == "spin_forever" { 3 } else { 20 };
        let found: Vec<Sign> = (1..=seeds)
            .map(|seed| {
                turn.emulator.schedule(2, seed);
                run(kernel)
            })
            .collect();
        let is_expected = |found: &Sign| shows(*found, random);
        let agrees =
            if random == Nothing { found.iter().all(is_expected) } else { found.iter().any(is_expected) };
        assert!(agrees, "{kernel}, random: {found:?} instead of {random:?}");
    }
}

#[test]
fn faults_of_bounds_are_noticed_by_the_sanitizers() {
    let bounds = Variant::build("bounds");
    assert_eq!(bounds.run("faults::one", "ok_reverse"), (true, String::new()));
    for (kernel, words) in BOUNDS {
        let (passed, output) = bounds.run("faults::one", kernel);
        assert!(!passed && output.contains(words), "{kernel}: {output}");
    }
}

#[test]
fn races_are_found_by_the_race_detector() {
    let race = Variant::build("race");
    for kernel in ORDERED {
        assert_eq!(race.run("faults::one", kernel), (true, String::new()), "{kernel}");
    }
    for kernel in RACES {
        let (passed, output) = race.run("faults::one", kernel);
        assert!(!passed && output.contains("data race"), "{kernel}: {output}");
    }
    // Some random orders make copies at their issue.
    for seed in 1..=5 {
        let (passed, output) = race.run("faults::one", &format!("cp_async_sync_too_early {seed}"));
        assert!(!passed && output.contains("data race"), "seed {seed}: {output}");
    }
}

/// One fault, and the seed of a random order if there is one, for the processes that the tests above start.
#[test]
fn one() {
    let Ok(subject) = std::env::var(crate::variant::SUBJECT) else { return };
    let turn = Turn::new();
    let (kernel, seed) = subject.split_once(' ').unwrap_or((&subject, ""));
    if let Ok(seed) = seed.parse() {
        turn.emulator.schedule(2, seed);
    }
    assert_eq!(run(kernel), Nothing);
}
