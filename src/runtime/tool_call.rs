//! A call of a tool that a model asked for.

use std::time::{Duration, Instant};

use theazo_domain::agent::Command;
use theazo_domain::id::ToolCallId;
use theazo_domain::organization::Mode;
use theazo_domain::tool::Tool;
use tokio::time::timeout;

use super::agent_loop::{Acted, Run, ends, spent};
use super::program::{self, Asked};
use crate::log::{Content, Failure, codec};
use crate::providers::compute::{End, Error, Finished, Handle};
use crate::providers::tools::input::{self, Input};
use crate::providers::tools::{self, http_request, web_search};
use crate::{config, random};

impl Run<'_> {
    /// Calls the tool at this place among those that the last answer called.
    pub(super) async fn call(&mut self, index: usize, left: Duration) -> Result<Acted, Failure> {
        let Some(pending) = &self.conversation.pending else { return Ok(Acted::On) };
        let Some(call) = pending.calls.get(index).cloned() else { return Ok(Acted::Ended) };
        let now = self.desk.app.clock.now();
        let tool_call_id = ToolCallId::from_ulid(random::ulid(now));
        // The tool is given what the model wrote; what is kept of it holds nothing that cannot be kept.
        let (content, reference) = Content::new(now, codec::storable_json(&call.input).into_owned());
        let start = Command::StartTool {
            epoch: self.epoch,
            call_id: pending.call_id,
            index: u32::try_from(index).unwrap_or(u32::MAX),
            tool_call_id,
            tool: call.name.chars().take(config::NAME_CHARACTERS).collect(),
            input: reference,
        };
        let Some(events) = self.tell(start, vec![content]).await? else { return Ok(Acted::Ended) };
        if events.is_empty() {
            return Ok(Acted::Ended);
        }
        let began = Instant::now();
        let limit = left.min(config::TOOL_DEADLINE);
        let done = match timeout(limit, self.carry_out(&call.name, &call.input, limit)).await {
            Ok(done) => done,
            Err(_) => Err("The tool took longer than it may.".to_owned()),
        };
        spent("tool", began.elapsed());
        let done = match self.secrets.renew(self.desk).await {
            Ok(()) => done,
            Err(error) => Err(error.to_string()),
        };
        let is_error = done.is_err();
        let text = self.masked_result(&done.unwrap_or_else(|what| what));
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (content, result) = Content::new(self.desk.app.clock.now(), text);
        let finish = Command::FinishTool { epoch: self.epoch, tool_call_id, result, is_error, duration_ms };
        let Some(events) = self.tell_surely(finish, vec![content]).await? else { return Ok(Acted::Ended) };
        Ok(if ends(&events) { Acted::Ended } else { Acted::On })
    }

    /// A result without secrets, and without what is left of one where it was cut.
    fn masked_result(&self, text: &str) -> String {
        match text.rfind(tools::CUT) {
            Some(end) => self.secrets.mask_up_to(&text[..end], true) + &self.secrets.mask(&text[end..]),
            None => self.secrets.mask(text),
        }
    }

    /// What came of it, in words for the model.
    async fn carry_out(&mut self, name: &str, given: &str, limit: Duration) -> Result<String, String> {
        let has = self.agent.config.tools.iter().flatten().any(|tool| tool.as_str() == name);
        let Some(tool) = Tool::named(name).filter(|_| has) else {
            return Err(format!("There is no tool named {name}."));
        };
        let input = input::read(tool, given).map_err(|failure| failure.0)?;
        if self.desk.tenant.mode == Mode::Test {
            return Ok("mock result".to_owned());
        }
        let app = self.desk.app;
        match input {
            Input::WebSearch { query } => match &app.search_engine {
                Some(engine) => web_search::search(&app.clients.operator, engine, &query)
                    .await
                    .map_err(|failure| failure.0),
                None => Err("No search engine is configured on this server.".to_owned()),
            },
            Input::HttpRequest(asked) => {
                http_request::request(&app.clients.guarded, &asked).await.map_err(|failure| failure.0)
            }
            Input::RunCode { language, code } => {
                let timeout = limit.min(config::EXEC_LIMIT);
                let asked = Asked { language, code, timeout };
                let ran = program::run(self.desk, &self.agent, &mut self.secrets, asked).await;
                ran.map(|finished| told(&finished)).map_err(|error| error.to_string())
            }
            files => self.files(files).await.map_err(|error| error.to_string()),
        }
    }

    async fn files(&self, input: Input) -> Result<String, Error> {
        let compute = self.desk.compute(&self.agent).await?;
        let handle = Handle(self.agent.sandbox.clone().ok_or(Error::Gone)?);
        match input {
            Input::WriteFile { path, content } => {
                compute.write_file(&handle, &path, content.as_bytes()).await?;
                Ok(format!("Wrote {} bytes to {path}.", content.len()))
            }
            Input::ReadFile { path } => {
                let file = compute.read_file(&handle, &path, config::FILE_TOOL_BYTES).await?;
                let mut text = String::from_utf8_lossy(&file.bytes).into_owned();
                if file.truncated {
                    text.push_str(tools::CUT);
                    text.push_str(": the file is longer]");
                }
                Ok(text)
            }
            Input::ListFiles { path } => {
                let path = path.unwrap_or_default();
                let entries = compute.list_files(&handle, &path, config::FILE_TOOL_ENTRIES).await?;
                let lines = entries.iter().map(|entry| format!("{}\t{}", entry.name, entry.size));
                let listed = lines.collect::<Vec<_>>().join("\n");
                Ok(if listed.is_empty() { "The folder is empty.".to_owned() } else { listed })
            }
            _ => Err(Error::Unsupported("this is no tool of files".to_owned())),
        }
    }
}

/// How a program ended, for a model.
fn told(finished: &Finished) -> String {
    let end = match finished.end {
        End::Code(code) => format!("exit code {code}"),
        End::Signal(signal) => format!("ended by signal {signal}"),
        End::TimedOut => "ended at its time limit".to_owned(),
    };
    let mut text = format!("{end}\n");
    for (name, output) in [("stdout", &finished.stdout), ("stderr", &finished.stderr)] {
        if !output.is_empty() {
            let shown: String = output.chars().take(config::TOOL_OUTPUT_CHARACTERS).collect();
            let (cut, end) = if shown.len() < output.len() { (tools::CUT, "]") } else { ("", "") };
            text.push_str(&format!("{name}:\n{shown}{cut}{end}\n"));
        }
    }
    text
}
