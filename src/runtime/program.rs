//! Running a program in an agent's sandbox: for a caller, or for a model.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use theazo_domain::id::SessionId;
use theazo_domain::organization::Mode;
use theazo_domain::secret::taken;
use zeroize::Zeroizing;

use super::Desk;
use crate::providers::compute::{End, Error, Finished, Handle, Language, Program};
use crate::providers::tools::typescript;
use crate::read::agent::Agent;
use crate::vault::redact::Redactor;
use crate::{config, read};

/// The secrets that an agent sees, and what masks them.
pub(crate) struct Secrets {
    session_id: SessionId,
    /// Of the values that were read.
    versions: Vec<String>,
    environment: Vec<(String, Zeroizing<String>)>,
    /// Every value since the first look: what began with an old one may still show it.
    known: Vec<Zeroizing<String>>,
    redactor: Redactor,
}

impl Secrets {
    /// Those of an agent.
    pub(crate) async fn of(desk: Desk<'_>, agent: &Agent) -> Result<Self, Error> {
        let (session_id, redactor) = (agent.session_id, Redactor::new([]).map_err(Error::internal)?);
        let mut secrets = Self { session_id, versions: vec![], environment: vec![], known: vec![], redactor };
        secrets.renew(desk).await?;
        Ok(secrets)
    }

    /// Takes in what was set and deleted since. It comes before whatever is masked: a value that was set while a program
    /// ran, or a model answered, may be in what they say.
    pub(crate) async fn renew(&mut self, desk: Desk<'_>) -> Result<(), Error> {
        let versions = read::secret::versions(desk.scope(), self.session_id).await?;
        if versions == self.versions {
            return Ok(());
        }
        let masters = &desk.app.keys.masters;
        let visible = read::secret::visible(desk.scope(), masters, self.session_id).await?;
        let value = |value: &str| Zeroizing::new(value.to_owned());
        self.environment = visible.iter().map(|(name, text)| (name.to_string(), value(text))).collect();
        for (_, value) in &self.environment {
            if !self.known.contains(value) {
                self.known.push(value.clone());
            }
        }
        // That they are too large to be masked is the caller's to mend, and says so.
        let redactor = Redactor::new(self.known.iter().map(|value| value.as_str()));
        self.redactor = redactor.map_err(|large| Error::Unsupported(large.to_string()))?;
        self.versions = versions;
        Ok(())
    }

    /// The value of one.
    pub(crate) fn value(&self, name: &str) -> Option<&Zeroizing<String>> {
        self.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Whether one of them is in a text.
    pub(crate) fn are_in(&self, text: &str) -> bool {
        matches!(self.redactor.text(text), Cow::Owned(_))
    }

    /// A text without them.
    pub(crate) fn mask(&self, text: &str) -> String {
        self.redactor.text(text).into_owned()
    }

    /// A text without them that may have been cut: without what the cut has left of one at the end too.
    pub(crate) fn mask_up_to(&self, text: &str, is_cut: bool) -> String {
        if is_cut { self.redactor.cut_text(text).into_owned() } else { self.mask(text) }
    }

    /// What went wrong, without them: providers see them, and may repeat them in their words.
    pub(crate) fn mask_error(&self, error: Error) -> Error {
        // Long words of a provider are cut.
        error.reworded(|words| self.mask_up_to(words, true))
    }
}

/// A program to run.
pub(crate) struct Asked {
    pub(crate) language: Language,
    pub(crate) code: String,
    pub(crate) timeout: Duration,
}

/// How it ended: the program, or the way to it.
pub(crate) type Outcome = Result<Finished, Error>;

/// Runs a program in the sandbox of an agent, with the secrets that the agent sees in its environment and masked in what
/// it writes.
pub(crate) async fn run(desk: Desk<'_>, agent: &Agent, secrets: &mut Secrets, asked: Asked) -> Outcome {
    let began = Instant::now();
    let sandbox = agent.sandbox.clone().ok_or(Error::Gone)?;
    let compute = desk.compute(agent).await?;
    let code = match javascript(desk, &asked).await? {
        Ok(code) => code,
        Err(stderr) => {
            let (stdout, duration) = (String::new(), began.elapsed());
            return Ok(Finished { stdout, stderr, end: End::Code(1), truncated: false, duration });
        }
    };
    small_enough(&secrets.environment)?;
    let mut environment = secrets.environment.clone();
    for (name, id) in
        [("THEAZO_AGENT_ID", agent.id.to_string()), ("THEAZO_SESSION_ID", agent.session_id.to_string())]
    {
        // No secret takes the place of these.
        environment.retain(|(known, _)| known != name);
        environment.push((name.to_owned(), Zeroizing::new(id)));
    }
    let program = Program {
        language: asked.language,
        code,
        environment,
        timeout: asked.timeout,
        output_limit: config::PROGRAM_OUTPUT_BYTES,
    };
    let ran = compute.run(&Handle(sandbox), &program).await;
    secrets.renew(desk).await?;
    let mut finished = ran.map_err(|error| secrets.mask_error(error))?;
    for output in [&mut finished.stdout, &mut finished.stderr] {
        *output = secrets.mask_up_to(output, finished.truncated);
    }
    Ok(finished)
}

/// Each scope is kept small when a secret is set in it, by what was there just before: callers at the same time may pass
/// it. What no program could be started with is not tried.
fn small_enough(secrets: &[(String, Zeroizing<String>)]) -> Result<(), Error> {
    let wide = |text: &str| u64::try_from(text.len()).unwrap_or(u64::MAX);
    let bytes: u64 = secrets.iter().map(|(name, value)| taken(wide(name), wide(value))).sum();
    let most = config::SECRETS_BYTES;
    if bytes <= most {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "the secrets that the agent sees take {bytes} bytes together, names included, and a program is given {most} at \
         most: delete some, or set shorter ones"
    )))
}

/// The code as the sandbox runs it; or what is wrong with it, as a program would write it.
async fn javascript(desk: Desk<'_>, asked: &Asked) -> Result<Result<String, String>, Error> {
    if asked.language != Language::TypeScript || desk.tenant.mode == Mode::Test {
        return Ok(Ok(asked.code.clone()));
    }
    match desk.app.typescript.javascript(&asked.code).await {
        Ok(code) => Ok(Ok(code)),
        Err(typescript::Error::Unavailable(what)) => Err(Error::Unavailable(what)),
        Err(error) => Ok(Err(format!("{error}\n"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_that_no_program_could_be_given_are_named_as_the_reason() {
        let secrets = |number: usize| -> Vec<_> {
            (0..number).map(|number| (format!("N{number}"), Zeroizing::new("v".repeat(65_000)))).collect()
        };
        assert_eq!(small_enough(&secrets(16)), Ok(()));
        let refused = small_enough(&secrets(17)).unwrap_err().to_string();
        assert!(refused.contains("secrets") && refused.contains("1048576"), "{refused}");
    }
}
