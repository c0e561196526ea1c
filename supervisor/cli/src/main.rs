//! `imsup`: imaginary machines on the command line. One file per verb, or per few verbs that belong
//! together.
#![forbid(unsafe_code)]

mod apply;
mod await_started;
mod background;
mod broker;
mod caller;
mod cascade;
mod check;
mod cluster;
mod compose;
mod config;
mod connection;
mod containers;
mod doctor;
mod down;
mod events;
mod exec;
mod failure;
mod fetching;
#[cfg(test)]
mod fixture;
mod follow;
mod habits;
mod human;
mod image_store;
mod images;
mod keeper;
mod kill;
mod limits;
mod load;
mod logging;
mod logs;
mod ls;
mod names;
mod output;
mod port;
mod power;
mod program;
mod project;
mod ps;
mod pull;
mod puller;
mod readiness;
mod remover;
mod resolvers;
mod run;
mod screen;
mod selection;
mod sleep;
mod spawned;
mod supervise;
mod table;
mod terminal;
mod top;
mod tree;
mod up;
mod usage;
mod version;
mod why;
mod zygote;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use imsup_broker::own_program;
use imsup_linux::{dispositions, static_libc};

use crate::failure::{Annotate, Style};

/// Imaginary machines: every host of a compose file exists, and the first connection boots it.
#[derive(Debug, Parser)]
#[command(name = "imsup", version, arg_required_else_help = true)]
#[command(after_help = "IMSUP_LOG sets what imsup itself logs (for example 'debug'); NO_COLOR turns colours off.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Up(up::Args),
    Down(down::Args),
    Ps(ps::Args),
    Run(run::Args),
    Exec(exec::Args),
    Logs(logs::Args),
    Events(events::Args),
    /// Boot hosts, and return when they are ready
    #[command(visible_alias = "start")]
    Wake(power::Args),
    /// End the programs of hosts; the hosts stay, and the next connection boots them
    Stop(power::Args),
    /// Stop hosts and boot them again; without names, those of the compose file that run
    Restart(power::Args),
    /// Suspend hosts as soon as they are quiet, and return when they sleep
    Suspend(sleep::Args),
    /// Wake hosts that sleep, and return when they run
    Resume(sleep::Args),
    KeepAwake(sleep::KeepAwakeArgs),
    Kill(kill::Args),
    Port(port::Args),
    Ls(ls::Args),
    Top(top::Args),
    Why(why::Args),
    Usage(usage::Args),
    #[command(alias = "convert")]
    Config(config::Args),
    Load(load::Args),
    Pull(pull::Args),
    Images(images::Args),
    Doctor(doctor::Args),
    Hosts(names::HostsArgs),
    Resolve(names::ResolveArgs),
    Broker(broker::Args),
    #[command(hide = true)]
    Check(check::Args),
    #[command(hide = true)]
    Puller(puller::Args),
    #[command(hide = true)]
    Remover(remover::Args),
    Completion(version::CompletionArgs),
    Version(version::VersionArgs),
}

fn main() -> ExitCode {
    static_libc::prepare();
    // Cannot fail: these signals exist, and may be ignored.
    let _ = dispositions::set_own();
    own_program::take_name();
    // A boot of a host may execute this binary; that road goes past clap, which takes 150 µs
    // (measured, release build).
    if let Some(project) = spawned::asked(std::env::args_os().skip(1)) {
        dispositions::disregard_inherited();
        let spawned = spawned::receive(project).status(supervise::OWN_FAILURE);
        let ended = spawned.and_then(spawned::Spawned::run);
        return ended.unwrap_or_else(|error| failure::report(&error));
    }
    if let Some(project) = zygote::asked(std::env::args_os().skip(1)) {
        dispositions::disregard_inherited();
        let supervisor = zygote::serve(&project).status(supervise::OWN_FAILURE);
        let ended = supervisor.and_then(|spawned| spawned.map_or(Ok(ExitCode::SUCCESS), spawned::Spawned::run));
        return ended.unwrap_or_else(|error| failure::report(&error));
    }
    if resolvers::is_asked(std::env::args_os().skip(1)) {
        let served = resolvers::serve().map(|()| ExitCode::SUCCESS);
        return served.unwrap_or_else(|error| failure::report(&error));
    }
    if let Some(asked) = keeper::asked(std::env::args_os().skip(1)) {
        let kept = keeper::serve(asked).map(|()| ExitCode::SUCCESS);
        return kept.unwrap_or_else(|error| failure::report(&error));
    }
    let matches = parse(std::env::args_os().collect());
    let style = error_style(&matches);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    dispatch(cli.verb).unwrap_or_else(|error| failure::report_as(&error, style))
}

/// The command line, or the end of the process with what is wrong with it.
fn parse(arguments: Vec<OsString>) -> ArgMatches {
    let parsed = Cli::command().try_get_matches_from(habits::arrange(arguments));
    parsed.unwrap_or_else(|error| {
        let verb = error.get(ContextKind::InvalidSubcommand);
        if let Some(ContextValue::String(verb)) = verb
            && let Some(word) = habits::word_for(verb)
        {
            output::error(&format!("there is no verb '{verb}' here"));
            output::hint(word);
            std::process::exit(error.exit_code());
        }
        let option = error.get(ContextKind::InvalidArg);
        if let Some(ContextValue::String(option)) = option
            && error.kind() == ErrorKind::UnknownArgument
            && let Some(word) = habits::word_for_option(option)
        {
            output::error(&format!("there is no option '{option}' here"));
            output::hint(word);
            std::process::exit(error.exit_code());
        }
        error.exit()
    })
}

/// JSON for whoever asks for JSON.
fn error_style(matches: &ArgMatches) -> Style {
    let verb = matches.subcommand().map(|(_, verb)| verb);
    let format = verb.and_then(|verb| verb.try_get_raw("format").ok().flatten()?.next());
    match format.is_some_and(|format| format == "json") {
        true => Style::Json,
        false => Style::Text,
    }
}

fn dispatch(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Up(args) => up::run(&args)?,
        Verb::Down(args) => down::run(&args)?,
        Verb::Ps(args) => ps::run(&args)?,
        Verb::Run(args) => return run::run(args),
        Verb::Exec(args) => return exec::run(args),
        Verb::Logs(args) => logs::run(&args)?,
        Verb::Events(args) => events::run(&args)?,
        Verb::Wake(args) => power::wake(&args)?,
        Verb::Stop(args) => power::stop(&args)?,
        Verb::Restart(args) => power::restart(&args)?,
        Verb::Suspend(args) => sleep::suspend(&args)?,
        Verb::Resume(args) => sleep::resume(&args)?,
        Verb::KeepAwake(args) => sleep::keep_awake(&args)?,
        Verb::Kill(args) => kill::run(&args)?,
        Verb::Port(args) => port::run(&args)?,
        Verb::Ls(args) => ls::run(&args)?,
        Verb::Top(args) => top::run(&args)?,
        Verb::Why(args) => why::run(&args)?,
        Verb::Usage(args) => usage::run(&args)?,
        Verb::Config(args) => config::run(&args)?,
        Verb::Load(args) => load::run(&args)?,
        Verb::Pull(args) => return pull::run(&args),
        Verb::Images(args) => images::run(&args)?,
        Verb::Doctor(args) => doctor::run(&args)?,
        Verb::Hosts(args) => names::hosts(&args)?,
        Verb::Resolve(args) => names::resolve(&args)?,
        Verb::Check(args) => return check::run(args),
        Verb::Puller(args) => puller::run(&args)?,
        Verb::Remover(args) => remover::run(&args)?,
        Verb::Broker(args) => return broker::run(&args),
        Verb::Completion(args) => version::completion(&args)?,
        Verb::Version(args) => version::version(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_json_where_json_is_asked_for() {
        let style = |line: &str| error_style(&Cli::command().try_get_matches_from(line.split(' ')).unwrap());
        for line in [
            "imsup ps --format json",
            "imsup config --format=json",
            "imsup why web --format json",
        ] {
            assert_eq!(style(line), Style::Json, "{line}");
        }
        for line in [
            "imsup ps",
            "imsup usage --format csv",
            "imsup stop",
            "imsup run -- x --format json",
        ] {
            assert_eq!(style(line), Style::Text, "{line}");
        }
    }

    /// The verbs of docker compose 2.40, `docker compose help`.
    #[test]
    fn each_verb_of_docker_compose_is_one_here_or_has_a_word() {
        let verbs = "attach bridge build commit config convert cp create down events exec export help images kill logs ls \
                     pause port ps publish pull push restart rm run scale start stats stop top unpause up version volumes \
                     wait watch";
        let mut cli = Cli::command();
        cli.build();
        for verb in verbs.split_whitespace() {
            let is_here = cli.find_subcommand(verb).is_some();
            assert!(is_here != habits::word_for(verb).is_some(), "{verb}");
        }
    }

    fn parses(line: &str) -> Result<Verb, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.verb)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usage_errors_have_status_2() {
        for line in [
            "imsup",
            "imsup nosuch",
            "imsup ps --format xml",
            "imsup run",
            "imsup run --host web",
            "imsup exec web",
            "imsup run --host -bad- -- true",
            "imsup resolve",
            "imsup logs --tail x",
            "imsup completion tcsh",
            "imsup suspend",
            "imsup resume",
            "imsup keep-awake web",
            "imsup keep-awake --for 1m",
            "imsup keep-awake web db --for 1m",
            "imsup keep-awake web --for 10",
            "imsup keep-awake web --for",
            "imsup keep-awake web --for -5m",
            "imsup keep-awake web --for soon",
            "imsup keep-awake web --for 366d",
            "imsup why",
            "imsup why --format csv web",
            "imsup usage --format xml",
            "imsup events --tree --follow",
            "imsup load --platform x/y/z/w",
            "imsup load --name Upper a",
            "imsup images --format json prune",
            "imsup puller",
        ] {
            let error = parses(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_commands_own_options_are_left_to_it() {
        for line in [
            "imsup run -- nginx -g daemon --host x",
            "imsup run nginx -g daemon --host x",
            "imsup run --host web -p shop -- nginx -g daemon --host x",
        ] {
            let Ok(Verb::Run(args)) = parses(line) else {
                panic!("{line} must parse as run");
            };
            assert_eq!(args.program.command, ["nginx", "-g", "daemon", "--host", "x"], "{line}");
        }
        let Ok(Verb::Exec(args)) = parses("imsup exec web redis-cli -p 6379") else {
            panic!("exec must parse");
        };
        assert_eq!(args.program.command, ["redis-cli", "-p", "6379"]);
    }

    #[test]
    fn docker_compose_users_find_their_flags() {
        for line in [
            "imsup up -d -f a.yaml -f b.yaml -p shop --profile dev --profile test --strict",
            "imsup up -d --no-build --no-color --menu=false -y",
            "imsup down -p shop --forget",
            "imsup ps --format json",
            "imsup ps -q",
            "imsup logs -f --tail 10 web db",
            "imsup events --follow --format json web",
            "imsup events --tree web",
            "imsup suspend -p shop web db",
            "imsup resume web",
            "imsup keep-awake web --for 1h30m",
            "imsup keep-awake --for 0s web",
            "imsup why web --format json",
            "imsup usage --format csv",
            "imsup usage web db",
            "imsup config --format json --strict",
            "imsup pull -q --profile dev web",
            "imsup load --platform linux/arm64 image.tar",
            "imsup images --format json",
            "imsup images prune -a",
            "imsup broker -f a.yaml -p shop",
            "imsup --version",
        ] {
            if let Err(error) = parses(line) {
                assert_eq!(error.exit_code(), 0, "{line}: {error}");
            }
        }
    }
}
