//! `imsup pull`: the images of the compose file, from their registries.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use imsup_broker::own_program;
use imsup_compose::ServiceImage;

use super::compose;
use super::failure::hinted;
use super::output;
use super::project::ProjectAndFileArgs;

/// Pull the images of services from their registries, also if they are in the store
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    project: ProjectAndFileArgs,
    /// Also take the services of this profile
    #[arg(long = "profile", value_name = "NAME")]
    profiles: Vec<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Only these services [default: all]
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

/// Runs the verb. The puller is a process of its own, and says what is wrong.
///
/// # Errors
/// Faults of the compose file, and services that it does not have.
pub fn run(args: &Args) -> Result<ExitCode> {
    let project = args.project.project.explicit();
    let images = compose::images(&args.project.files, project, &args.profiles)?;
    let pulled = plan(images, &args.services)?;
    if pulled.is_empty() {
        output::note("no service has an image to pull");
    }
    for (platform, names) in pulled {
        let executable = std::env::current_exe().context("finding imsup's own program")?;
        let mut puller = own_program::command(&executable);
        puller.arg("puller").stdin(Stdio::null());
        if let Some(platform) = platform {
            puller.args(["--platform", &platform]);
        }
        if args.quiet {
            puller.arg("--quiet");
        }
        let status = puller.arg("--").args(names).status().context("starting the puller")?;
        if !status.success() {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            return Ok(ExitCode::from(code.unwrap_or(1)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The names to pull by platform, each once.
fn plan(images: Vec<ServiceImage>, services: &[String]) -> Result<BTreeMap<Option<String>, BTreeSet<String>>> {
    let mut plan: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    if let Some(unknown) = services
        .iter()
        .find(|name| !images.iter().any(|image| image.service == **name))
    {
        let known: Vec<&str> = images.iter().map(|image| image.service.as_str()).collect();
        let error = anyhow!("the compose file has no service '{unknown}' with an image");
        if known.is_empty() {
            bail!(error);
        }
        return Err(hinted(error, format!("it has images for {}", known.join(", "))));
    }
    for image in images {
        let is_meant = services.is_empty() || services.contains(&image.service);
        // An image that is built here is in no registry, or an older one is.
        let is_pulled = !image.is_built && !matches!(image.pull_policy.as_deref(), Some("never" | "build"));
        if is_meant && is_pulled {
            plan.entry(image.platform).or_default().insert(image.image);
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(service: &str, image: &str) -> ServiceImage {
        ServiceImage {
            service: service.to_owned(),
            image: image.to_owned(),
            platform: None,
            pull_policy: None,
            is_built: false,
        }
    }

    #[test]
    fn an_image_is_pulled_once_and_not_if_it_is_built() {
        let images = vec![
            image("web", "nginx"),
            image("proxy", "nginx"),
            ServiceImage {
                platform: Some("linux/arm64".to_owned()),
                ..image("far", "redis")
            },
            ServiceImage {
                is_built: true,
                ..image("app", "app")
            },
            ServiceImage {
                pull_policy: Some("never".to_owned()),
                ..image("local", "local")
            },
        ];
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let all = plan(images.clone(), &[]).unwrap();
        let expected = [
            (None, names(&["nginx"])),
            (Some("linux/arm64".to_owned()), names(&["redis"])),
        ];
        assert_eq!(all, BTreeMap::from(expected));
        assert_eq!(plan(images.clone(), &["app".to_owned()]).unwrap(), BTreeMap::new());
        let error = plan(images, &["nosuch".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("no service 'nosuch'"), "{error}");
    }
}
