//! What a benchmark is told on its command line.

use std::{env, str::FromStr};

pub type Anyhow<T> = Result<T, Box<dyn std::error::Error>>;

/// The value behind `name`, if it was given. Other arguments are left alone: cargo passes some to
/// all benchmarks.
pub fn argument<T>(name: &str) -> Anyhow<Option<T>>
where
    T: FromStr<Err: std::error::Error + 'static>,
{
    let mut given = env::args().skip_while(|argument| argument != name);
    if given.next().is_none() {
        return Ok(None);
    }
    let value = given
        .next()
        .ok_or_else(|| format!("{name} needs a value"))?;
    Ok(Some(value.parse()?))
}
