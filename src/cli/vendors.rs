//! The operator's words about how sandboxes are made at vendors.

use clap::builder::FalseyValueParser;

use super::Error;
use crate::providers::Vendors;
use crate::providers::compute::docker::Workspace;
use crate::providers::guard::check_form;

#[derive(Debug, Default, clap::Args)]
pub(super) struct VendorArguments {
    /// Where every sandbox of E2B is reached, in a deployment without names for them [default: below the domain]
    #[arg(long, value_name = "URL", env = "E2B_SANDBOX_URL")]
    e2b_sandbox_url: Option<String>,
    /// The template of sandboxes at E2B; it must hold python3, node and bash [default: base]
    #[arg(long, value_name = "NAME", env = "THEAZO_E2B_TEMPLATE")]
    e2b_template: Option<String>,
    /// Where an agent's files are in them [default: /home/user/workspace]
    #[arg(long, value_name = "DIR", env = "THEAZO_E2B_WORKSPACE")]
    e2b_workspace: Option<String>,
    /// Let programs in them reach the internet
    #[arg(long, env = "THEAZO_E2B_INTERNET", value_parser = FalseyValueParser::new())]
    e2b_internet: bool,
    /// The image of machines at Fly.io; it must hold python3, node and bash [default: as for Docker]
    #[arg(long, value_name = "IMAGE", env = "THEAZO_FLY_IMAGE")]
    fly_image: Option<String>,
    /// Where they run [default: Fly's choice]
    #[arg(long, value_name = "REGION", env = "THEAZO_FLY_REGION")]
    fly_region: Option<String>,
    /// Where an agent's files are in them [default: /workspace]
    #[arg(long, value_name = "DIR", env = "THEAZO_FLY_WORKSPACE")]
    fly_workspace: Option<String>,
    /// The image of containers; it must hold python3, node and bash, and be there
    /// [default: nikolaik/python-nodejs:python3.13-nodejs22-slim]
    #[arg(long, value_name = "IMAGE", env = "THEAZO_DOCKER_IMAGE")]
    docker_image: Option<String>,
    /// Where an agent's files lie: memory, quota (a volume that the daemon limits) or volume [default: memory]
    #[arg(long, value_name = "KIND", env = "THEAZO_DOCKER_WORKSPACE")]
    docker_workspace: Option<String>,
    /// The Docker network that containers join [default: none]
    #[arg(long, value_name = "NAME", env = "THEAZO_DOCKER_NETWORK")]
    docker_network: Option<String>,
}

impl VendorArguments {
    /// Says it of the vendors. An empty text counts as none.
    pub(super) fn apply(&self, vendors: &mut Vendors) -> Result<(), Error> {
        let (e2b, fly, docker) =
            (&mut vendors.e2b_sandboxes, &mut vendors.fly_sandboxes, &mut vendors.docker_sandboxes);
        if let Some(text) = given(&self.e2b_sandbox_url) {
            let wrong = |error: String| Error::Usage(format!("--e2b-sandbox-url: {error}"));
            let url: url::Url = text.parse().map_err(|error: url::ParseError| wrong(error.to_string()))?;
            check_form(&url).map_err(|error| wrong(error.to_string()))?;
            e2b.sandbox_url = Some(url);
        }
        e2b.internet = self.e2b_internet;
        fly.region = given(&self.fly_region).or(fly.region.take());
        docker.network = given(&self.docker_network).or(docker.network.take());
        for (text, setting) in [
            (&self.e2b_template, &mut e2b.template),
            (&self.e2b_workspace, &mut e2b.workspace),
            (&self.fly_image, &mut fly.image),
            (&self.fly_workspace, &mut fly.workspace),
            (&self.docker_image, &mut docker.image),
        ] {
            if let Some(text) = given(text) {
                *setting = text;
            }
        }
        match given(&self.docker_workspace).as_deref() {
            None => {}
            Some("memory") => docker.workspace = Workspace::Memory,
            Some("quota") => docker.workspace = Workspace::Quota,
            Some("volume") => docker.workspace = Workspace::Volume,
            Some(other) => {
                let message = format!("--docker-workspace: {other:?} is none of memory, quota and volume");
                return Err(Error::Usage(message));
            }
        }
        Ok(())
    }
}

fn given(text: &Option<String>) -> Option<String> {
    text.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_reaches_the_clients_and_the_rest_stays() {
        let mut vendors = Vendors::default();
        let said = VendorArguments {
            docker_image: Some("agents:1".to_owned()),
            docker_workspace: Some("volume".to_owned()),
            fly_region: Some("fra".to_owned()),
            fly_image: Some(" ".to_owned()),
            e2b_internet: true,
            ..VendorArguments::default()
        };
        said.apply(&mut vendors).unwrap();
        let unsaid = Vendors::default();
        assert_eq!(vendors.docker_sandboxes.image, "agents:1");
        assert_eq!(vendors.docker_sandboxes.workspace, Workspace::Volume);
        assert_eq!(vendors.fly_sandboxes.region.as_deref(), Some("fra"));
        assert_eq!(vendors.fly_sandboxes.image, unsaid.fly_sandboxes.image);
        assert!(vendors.e2b_sandboxes.internet && !unsaid.e2b_sandboxes.internet);
        let wrong =
            VendorArguments { docker_workspace: Some("disk".to_owned()), ..VendorArguments::default() };
        assert!(wrong.apply(&mut vendors).unwrap_err().to_string().starts_with("--docker-workspace: "));
    }
}
