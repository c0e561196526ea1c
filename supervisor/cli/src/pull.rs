//! `imsup pull`: the images of the compose file, from their registries.

use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use imsup_broker::own_program;
use imsup_compose::ServiceImage;
use imsup_images::{Pull, Wanted};

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
    let pulled = plan(&images, &args.services)?;
    if pulled.is_empty() {
        output::note("no service has an image to pull");
        return Ok(ExitCode::SUCCESS);
    }
    let executable = std::env::current_exe().context("finding imsup's own program")?;
    let mut puller = own_program::command(&executable);
    puller.arg("puller").stdin(Stdio::null());
    if args.quiet {
        puller.arg("--quiet");
    }
    let images = pulled.iter().map(Wanted::to_string);
    let status = puller.arg("--").args(images).status().context("starting the puller")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// The images to pull, each once, in the order of the file.
fn plan(images: &[ServiceImage], services: &[String]) -> Result<Vec<Wanted>> {
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
    let mut plan = Vec::new();
    for image in images {
        let is_meant = services.is_empty() || services.contains(&image.service);
        // An image that is built here is in no registry, or an older one is.
        if !is_meant || image.is_built {
            continue;
        }
        let mut wanted = wanted(image).with_context(|| format!("service '{}'", image.service))?;
        if wanted.pull == Pull::Never {
            continue;
        }
        wanted.pull = Pull::Always;
        if !plan.contains(&wanted) {
            plan.push(wanted);
        }
    }
    Ok(plan)
}

/// What a service wants of its image.
fn wanted(image: &ServiceImage) -> Result<Wanted> {
    let pull = image.pull_policy.as_deref().map(str::parse).transpose()?;
    let platform = image.platform.as_deref().map(str::parse).transpose()?;
    Ok(Wanted {
        name: image.image.parse()?,
        platform,
        pull: pull.unwrap_or_default(),
    })
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
        let texts = |plan: Vec<Wanted>| plan.iter().map(Wanted::to_string).collect::<Vec<_>>();
        let all = texts(plan(&images, &[]).unwrap());
        assert_eq!(
            all,
            [
                "nginx:latest,pull=always",
                "redis:latest,platform=linux/arm64,pull=always"
            ]
        );
        assert_eq!(plan(&images, &["app".to_owned()]).unwrap(), []);
        let error = plan(&images, &["nosuch".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("no service 'nosuch'"), "{error}");
    }

    #[test]
    fn what_cannot_be_pulled_is_said_with_its_service() {
        let said = |image: ServiceImage| format!("{:#}", plan(&[image], &[]).unwrap_err());
        assert!(said(image("web", "Nginx")).starts_with("service 'web': 'Nginx' is no name of an image"));
        let odd = ServiceImage {
            pull_policy: Some("sometimes".to_owned()),
            ..image("web", "nginx")
        };
        assert!(said(odd).starts_with("service 'web': 'sometimes' is no pull policy"));
    }
}
