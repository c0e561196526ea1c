//! `imsup doctor`: the features of the kernel, and the losses without each.

use anyhow::{Result, bail};
use imsup_linux::features::{self, Feature};

use super::output::{self, DIM, presence_style};
use super::table::{Format, FormatArgs, Table};

/// Show what this machine offers, and what does not work without it
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    format: FormatArgs,
}

/// Runs the verb; the status is 1 if an indispensable feature is missing.
///
/// # Errors
/// Hosts cannot run here, or those of writing.
pub fn run(args: &Args) -> Result<()> {
    let features = features::probe();
    match args.format.format {
        Format::Json => {
            let mut out = output::stdout();
            features
                .iter()
                .try_for_each(|feature| output::json_line(&mut out, feature))?;
        }
        Format::Table => table(&features).print_wrapped()?,
    }
    match verdict(&features) {
        Ok(()) => Ok(()),
        Err(missing) => bail!("hosts cannot run here: {missing}"),
    }
}

/// The missing features without which imsup cannot work.
fn verdict(features: &[Feature]) -> Result<(), String> {
    let missing: Vec<String> = features
        .iter()
        .filter(|feature| feature.indispensable && !feature.present)
        .map(|feature| format!("{} ({})", feature.name, feature.detail))
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(missing.join(", "))
    }
}

fn table(features: &[Feature]) -> Table {
    let mut table = Table::new(["FEATURE", "THERE", "DETAIL", "WITHOUT IT"]);
    for feature in features {
        let there = match (feature.present, feature.indispensable) {
            (true, _) => "yes",
            (false, true) => "no!",
            (false, false) => "no",
        };
        table.row([
            (feature.name.to_owned(), None),
            (there.to_owned(), Some(presence_style(feature.present))),
            (feature.detail.clone(), None),
            (feature.lost_without.to_owned(), Some(DIM)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feature(name: &'static str, present: bool, indispensable: bool) -> Feature {
        Feature {
            name,
            needed_for: "hosts",
            present,
            detail: "seen".to_owned(),
            lost_without: "all",
            indispensable,
        }
    }

    #[test]
    fn only_what_is_indispensable_fails() {
        assert_eq!(verdict(&[feature("a", true, true), feature("b", false, false)]), Ok(()));
        assert_eq!(
            verdict(&[feature("a", false, true), feature("b", false, true)]),
            Err("a (seen), b (seen)".to_owned())
        );
    }

    #[test]
    fn what_is_missing_stands_out() {
        let text = table(&[feature("pidfd_getfd(2)", false, true)]).render(None);
        let plain = anstream::adapter::strip_str(&text).to_string();
        assert!(plain.contains("pidfd_getfd(2)  no!    seen"), "{plain}");
    }
}
