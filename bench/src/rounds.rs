//! Taking turns: A B A B.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::interrupt;
use crate::stats::{Measured, Unit};

/// Raw samples with their name.
pub type Series = (String, Vec<u64>);

/// A participant: a variant's name, and the closure that takes one batch of its samples.
pub struct Turn<'a> {
    /// The variant.
    pub variant: &'static str,
    /// Takes a batch.
    take: Box<dyn FnMut() -> Result<Vec<Series>> + 'a>,
    /// True if the others continue after its failure.
    is_baseline: bool,
    /// The reason why a baseline's turns ended; none of its batches counts then.
    pub failed: Option<anyhow::Error>,
}

impl<'a> Turn<'a> {
    /// A variant and its closure.
    pub fn new(variant: &'static str, take: impl FnMut() -> Result<Vec<Series>> + 'a) -> Self {
        Self {
            variant,
            take: Box::new(take),
            is_baseline: false,
            failed: None,
        }
    }

    /// The same for a baseline: the others continue after its failure.
    pub fn baseline(variant: &'static str, take: impl FnMut() -> Result<Vec<Series>> + 'a) -> Self {
        Self {
            is_baseline: true,
            ..Self::new(variant, take)
        }
    }
}

/// All batches that were taken, by variant and series.
#[derive(Debug, Default)]
pub struct Batches {
    taken: BTreeMap<(&'static str, String), Vec<Vec<u64>>>,
}

impl Batches {
    /// Gives every participant a turn, `rounds` times; the first participant rotates, so that none
    /// always follows the same other. The first `warm_up` rounds are not counted. A failed baseline
    /// has no more turns, and none of its batches of these rounds counts.
    ///
    /// # Errors
    /// A participant other than a baseline failed, or a signal came.
    pub fn interleave(&mut self, turns: &mut [Turn<'_>], warm_up: usize, rounds: usize) -> Result<()> {
        let count = turns.len();
        let mut taken = Self::default();
        for round in 0..warm_up + rounds {
            for position in 0..count {
                interrupt::check()?;
                let turn = &mut turns[(round + position) % count];
                if turn.failed.is_some() {
                    continue;
                }
                match (turn.take)().with_context(|| turn.variant) {
                    Ok(series) if round >= warm_up => taken.add(turn.variant, series),
                    Ok(_) => {}
                    Err(why) if turn.is_baseline => {
                        interrupt::check()?;
                        taken.taken.retain(|(variant, _), _| *variant != turn.variant);
                        turn.failed = Some(why);
                    }
                    Err(why) => return Err(why),
                }
            }
        }
        for (key, batches) in taken.taken {
            self.taken.entry(key).or_default().extend(batches);
        }
        Ok(())
    }

    /// Adds a batch that was taken outside [`Self::interleave`].
    pub fn add(&mut self, variant: &'static str, series: Vec<Series>) {
        for (name, samples) in series {
            self.taken.entry((variant, name)).or_default().push(samples);
        }
    }

    /// True if the variant was measured.
    pub fn has(&self, variant: &'static str, series: &str) -> bool {
        self.taken.contains_key(&(variant, series.to_owned()))
    }

    /// All batches of one series.
    ///
    /// # Errors
    /// There are none.
    pub fn of(&self, variant: &'static str, series: &str) -> Result<&[Vec<u64>]> {
        self.taken
            .get(&(variant, series.to_owned()))
            .map(Vec::as_slice)
            .with_context(|| format!("nothing was measured of {series} ({variant})"))
    }

    /// One compared series.
    ///
    /// # Errors
    /// No measurement exists.
    pub fn measured(&self, variant: &'static str, series: &str, unit: Unit) -> Result<Measured> {
        Measured::of(self.of(variant, series)?, unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_rotate_and_the_warm_up_is_not_counted() {
        let order = std::cell::RefCell::new(String::new());
        let turn = |variant: &'static str| {
            let order = &order;
            Turn::new(variant, move || {
                order.borrow_mut().push_str(variant);
                Ok(vec![("time".to_owned(), vec![order.borrow().len() as u64])])
            })
        };
        let mut batches = Batches::default();
        batches.interleave(&mut [turn("A"), turn("B")], 1, 2).unwrap();
        assert_eq!(*order.borrow(), "ABBAAB");
        assert_eq!(batches.of("A", "time").unwrap(), [vec![4], vec![5]]);
        assert!(batches.of("A", "size").is_err());
    }

    #[test]
    fn a_peer_that_fails_is_nothing_and_the_others_go_on() {
        let mut left = 2;
        let mut turns = [
            Turn::new("native", || Ok(vec![("time".to_owned(), vec![1])])),
            Turn::baseline("docker", || {
                left -= 1;
                anyhow::ensure!(left > 0, "docker: exit status 1");
                Ok(vec![("time".to_owned(), vec![2])])
            }),
        ];
        let mut batches = Batches::default();
        batches.interleave(&mut turns, 0, 5).unwrap();
        assert!(turns[0].failed.is_none());
        assert!(format!("{:#}", turns[1].failed.as_ref().unwrap()).contains("exit status 1"));
        assert_eq!(batches.of("native", "time").unwrap().len(), 5);
        assert!(!batches.has("docker", "time"));
        let mut failing = [Turn::new("native", || anyhow::bail!("gone"))];
        assert!(batches.interleave(&mut failing, 0, 1).is_err());
    }
}
