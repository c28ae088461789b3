//! Hardware that fails.

use duralog::WriteMode;

use crate::tally::Tally;

pub type Scenario = (
    &'static str,
    fn(WriteMode, u64, &Tally) -> Result<(), String>,
);

pub const ALL: &[Scenario] = &[];

pub fn run(name: &str, mode: WriteMode, seed: u64, tally: &Tally) -> Result<(), String> {
    let scenario = ALL.iter().find(|(known, _)| *known == name);
    scenario.map_or(Ok(()), |(_, run)| run(mode, seed, tally))
}
