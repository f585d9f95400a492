//! Statements sent one behind the other without waiting for the answers between them: one round trip for many.

use std::pin::Pin;

use futures_util::future::{MaybeDone, maybe_done};
use tokio_postgres::Row;

use super::Error;

type Answer<'a> = Pin<Box<dyn Future<Output = Result<Vec<Row>, tokio_postgres::Error>> + Send + 'a>>;

/// Statements on their way. They are carried out in the order in which they were sent.
#[derive(Default)]
pub(crate) struct Pipeline<'a> {
    sent: Vec<Pin<Box<MaybeDone<Answer<'a>>>>>,
}

impl<'a> Pipeline<'a> {
    /// Sends a statement: tokio-postgres puts it on the wire when its future is first polled, which is done here,
    /// once, so that the order of the calls is the order of the statements.
    pub(crate) async fn send(
        &mut self,
        statement: impl Future<Output = Result<Vec<Row>, tokio_postgres::Error>> + Send + 'a,
    ) {
        let mut sent = Box::pin(maybe_done(Box::pin(statement) as Answer<'a>));
        let _ = futures_util::poll!(sent.as_mut());
        self.sent.push(sent);
    }

    /// Waits for every answer and gives them in order. Every result is looked at, since the COMMIT of a failed
    /// transaction reports success.
    pub(crate) async fn finish(self) -> Result<Vec<Vec<Row>>, Error> {
        let mut answers = Vec::with_capacity(self.sent.len());
        let mut failed = None;
        for mut sent in self.sent {
            sent.as_mut().await;
            match sent.as_mut().take_output() {
                Some(Ok(rows)) => answers.push(rows),
                // The first failure is the cause; those behind it only say that the transaction is aborted.
                Some(Err(error)) => failed = failed.or(Some(error)),
                None => unreachable!("a finished future has its output until it is taken"),
            }
        }
        failed.map_or(Ok(answers), |error| Err(error.into()))
    }
}
