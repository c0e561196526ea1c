//! Failures of a verb: a chain of causes, a remedy, and the exit status.

use std::fmt;
use std::io;
use std::process::ExitCode;

use anyhow::Error;
use imsup_broker::client::ClientError;
use imsup_compose::ComposeError;
use imsup_wire::{ErrorKind, Failure};
use serde::Serialize;

use super::output;

/// An error with a remedy for the user, or with an exit status of its own.
#[derive(Debug)]
struct Annotated {
    error: Error,
    hint: Option<String>,
    status: Option<u8>,
}

impl fmt::Display for Annotated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(&self.error))
    }
}

impl std::error::Error for Annotated {}

/// Adds an exit status to an error.
pub trait Annotate<T> {
    /// The exit status of the whole command; 1 by default.
    fn status(self, status: u8) -> Result<T, Error>;
}

impl<T, E: Into<Error>> Annotate<T> for Result<T, E> {
    fn status(self, status: u8) -> Result<T, Error> {
        self.map_err(|error| {
            Error::new(Annotated {
                error: error.into(),
                hint: None,
                status: Some(status),
            })
        })
    }
}

/// An error with a remedy, printed on a line of its own.
pub fn hinted(error: Error, hint: impl Into<String>) -> Error {
    Error::new(Annotated {
        error,
        hint: Some(hint.into()),
        status: None,
    })
}

/// The annotation of any [`Annotated`] in the chain; the outermost wins.
fn annotation<T>(error: &Error, get: &dyn Fn(&Annotated) -> Option<T>) -> Option<T> {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<Annotated>())
        .find_map(|annotated| get(annotated).or_else(|| annotation(&annotated.error, get)))
}

/// The lines shown for an error: `imsup: what failed: why`, and the hint.
pub fn lines(error: &Error) -> (String, Option<String>) {
    (chain(error), annotation(error, &|a| a.hint.clone()))
}

/// The failure and the cause, on a single line. A cause that is quoted already is not repeated.
fn chain(error: &Error) -> String {
    error.chain().fold(String::new(), |said, cause| {
        let cause = cause.to_string();
        if said.is_empty() {
            cause
        } else if said.contains(&cause) {
            said
        } else {
            format!("{said}: {cause}")
        }
    })
}

/// What kind of failure it is, as far as one in the chain has one.
fn kind(error: &Error) -> ErrorKind {
    let known = error.chain().find_map(|cause| {
        let of_client = cause.downcast_ref().map(ClientError::kind);
        let of_host = || cause.downcast_ref().map(|failure: &Failure| failure.kind);
        let of_file = || cause.downcast_ref().map(|_: &ComposeError| ErrorKind::ComposeFile);
        let inside = || cause.downcast_ref().map(|annotated: &Annotated| kind(&annotated.error));
        of_client.or_else(of_host).or_else(of_file).or_else(inside)
    });
    known.unwrap_or(ErrorKind::Other)
}

/// How errors are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `imsup: what failed: why`, and the hint on a line of its own.
    Text,
    /// One [`Object`].
    Json,
}

/// An error as JSON.
#[derive(Debug, Serialize)]
struct Object {
    kind: ErrorKind,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Object {
    fn of(error: &Error) -> Self {
        let (message, hint) = lines(error);
        Self {
            kind: kind(error),
            message,
            hint,
        }
    }
}

/// Prints an error as text, as [`report_as`].
pub fn report(error: &Error) -> ExitCode {
    report_as(error, Style::Text)
}

/// Prints an error and gives the exit status. A reader that went away (`imsup events | head`) is no
/// error.
pub fn report_as(error: &Error, style: Style) -> ExitCode {
    if error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
    {
        return ExitCode::SUCCESS;
    }
    match style {
        Style::Text => {
            let (message, hint) = lines(error);
            output::error(&message);
            if let Some(hint) = hint {
                output::hint(&hint);
            }
        }
        Style::Json => output::error_object(&Object::of(error)),
    }
    ExitCode::from(annotation(error, &|a| a.status).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn the_chain_is_one_line_and_the_hint_another() {
        let error = hinted(anyhow!("no such file"), "write one").context("reading compose.yaml");
        assert_eq!(
            lines(&error),
            (
                "reading compose.yaml: no such file".to_owned(),
                Some("write one".to_owned())
            )
        );
    }

    #[test]
    fn a_cause_that_was_quoted_is_not_repeated() {
        #[derive(Debug, thiserror::Error)]
        #[error("opening it: {source}; try again")]
        struct Quoting {
            source: io::Error,
        }
        let error = Error::new(Quoting {
            source: io::Error::other("no disk"),
        });
        assert_eq!(
            chain(&error.context("reading")),
            "reading: opening it: no disk; try again"
        );
    }

    #[test]
    fn an_object_has_the_kind_of_whatever_in_the_chain_has_one() {
        let failure = ErrorKind::UnknownHost.because("there is no host 'wbe'");
        let error = hinted(failure.into(), "did you mean 'web'?").context("project 'shop'");
        assert_eq!(
            serde_json::to_string(&Object::of(&error)).unwrap(),
            r#"{"kind":"unknown-host","message":"project 'shop': there is no host 'wbe'","hint":"did you mean 'web'?"}"#
        );
        let project = "shop".to_owned();
        let error = Error::from(ClientError::NoBroker { project }).context("asking");
        assert_eq!(kind(&error), ErrorKind::NotUp);
        assert_eq!(
            serde_json::to_string(&Object::of(&anyhow!("no"))).unwrap(),
            r#"{"kind":"other","message":"no"}"#
        );
    }

    #[test]
    fn hints_and_statuses_are_found_inside_each_other() {
        let error = Err::<(), _>(hinted(anyhow!("x"), "inner"))
            .status(127)
            .context("more")
            .unwrap_err();
        assert_eq!(annotation(&error, &|a| a.status), Some(127));
        assert_eq!(annotation(&error, &|a| a.hint.clone()), Some("inner".to_owned()));
    }
}
