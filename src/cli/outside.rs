//! What the operator says of what lies outside.

use std::path::Path;
use std::str::FromStr;

use url::Url;

use super::Error;
use super::sandbox::SandboxArguments;
use super::vendors::VendorArguments;
use crate::providers::credentials::DockerHost;
use crate::providers::guard::check_form;
use crate::providers::{Settings, Vendors};

/// Where calls may go, and where the vendors are. The names in the environment are those of the vendors' own tools.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Outside {
    /// Ranges such as 10.0.0.0/8 that customers may name as addresses of webhooks and tools, which are else public only
    #[arg(long, value_name = "CIDR", env = "THEAZO_ALLOW_PRIVATE_NETWORK", value_delimiter = ',')]
    allow_private_network: Vec<String>,
    /// The search engine that agents may ask: a SearXNG whose settings allow the JSON format
    #[arg(long, value_name = "URL", env = "THEAZO_SEARCH_URL")]
    search_url: Option<String>,
    /// E2B's API [default: https://api.DOMAIN]
    #[arg(long, value_name = "URL", env = "E2B_API_URL")]
    e2b_api_url: Option<String>,
    /// The domain of E2B [default: e2b.app]
    #[arg(long, value_name = "DOMAIN", env = "E2B_DOMAIN")]
    e2b_domain: Option<String>,
    /// The API of Fly's machines [default: https://api.machines.dev]
    #[arg(long, value_name = "URL", env = "FLY_API_HOSTNAME")]
    fly_api_url: Option<String>,
    /// The Docker engine of providers that name none [default: unix:///var/run/docker.sock]
    #[arg(long, value_name = "HOST", env = "DOCKER_HOST")]
    docker_host: Option<String>,
    #[command(flatten)]
    made: VendorArguments,
    #[command(flatten)]
    sandbox: SandboxArguments,
}

impl Outside {
    /// The settings. An empty text counts as none.
    pub(super) fn settings(&self, data_dir: &Path) -> Result<Settings, Error> {
        let networks =
            self.allow_private_network.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
        let allowed_networks =
            networks.map(|text| read("--allow-private-network", text)).collect::<Result<_, _>>()?;
        let mut vendors = Vendors::default();
        if let Some(domain) = given(&self.e2b_domain) {
            vendors.e2b = url("--e2b-domain", &format!("https://api.{domain}"))?;
        }
        if let Some(text) = given(&self.e2b_api_url) {
            vendors.e2b = url("--e2b-api-url", text)?;
        }
        if let Some(text) = given(&self.fly_api_url) {
            vendors.fly = url("--fly-api-url", text)?;
        }
        if let Some(text) = given(&self.docker_host) {
            vendors.docker = read::<DockerHost>("--docker-host", text)?;
        }
        self.made.apply(&mut vendors)?;
        let search_engine = given(&self.search_url).map(|text| url("--search-url", text)).transpose()?;
        let sandboxes = Some(self.sandbox.options(data_dir)?);
        Ok(Settings { allowed_networks, search_engine, sandboxes, vendors })
    }
}

fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().map(str::trim).filter(|text| !text.is_empty())
}

fn read<T: FromStr<Err: std::fmt::Display>>(flag: &str, text: &str) -> Result<T, Error> {
    text.parse().map_err(|error| Error::Usage(format!("{flag}: {error}")))
}

fn url(flag: &str, text: &str) -> Result<Url, Error> {
    let url: Url = read(flag, text)?;
    check_form(&url).map_err(|error| Error::Usage(format!("{flag}: {error}")))?;
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(change: impl FnOnce(&mut Outside)) -> Result<Settings, String> {
        let mut outside = Outside::default();
        change(&mut outside);
        outside.settings(Path::new("/tmp")).map_err(|error| error.to_string())
    }

    #[test]
    fn vendors_are_where_their_own_tools_say() {
        let vendors = settings(|_| {}).unwrap().vendors;
        assert_eq!(vendors.e2b.as_str(), "https://api.e2b.app/");
        assert_eq!(vendors.fly.as_str(), "https://api.machines.dev/");
        let domain = settings(|outside| outside.e2b_domain = Some("e2b.example".to_owned())).unwrap();
        assert_eq!(domain.vendors.e2b.as_str(), "https://api.e2b.example/");
        let both = settings(|outside| {
            outside.e2b_domain = Some("e2b.example".to_owned());
            outside.e2b_api_url = Some("http://localhost:3000".to_owned());
            outside.docker_host = Some("tcp://10.0.0.1:2375".to_owned());
            outside.fly_api_url = Some(String::new());
        });
        let vendors = both.unwrap().vendors;
        assert_eq!(vendors.e2b.as_str(), "http://localhost:3000/");
        assert_eq!(vendors.docker, "http://10.0.0.1:2375".parse().unwrap());
        assert_eq!(vendors.fly.as_str(), "https://api.machines.dev/");
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let told =
            settings(|outside| outside.allow_private_network = vec![" ".to_owned(), "10.1/8".to_owned()]);
        assert!(told.unwrap_err().starts_with("--allow-private-network: expected a range"));
        let told = settings(|outside| outside.fly_api_url = Some("api.machines.dev".to_owned()));
        assert!(told.unwrap_err().starts_with("--fly-api-url: "));
        let told = settings(|outside| outside.docker_host = Some("ssh://somewhere".to_owned()));
        assert!(told.unwrap_err().starts_with("--docker-host: "));
    }
}
