//! The least that the pool asks of the broker: ten slots that take a message, publish a result,
//! wait for its confirm and ack.

use anyhow::Context;
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use tokio::task::JoinSet;

use super::submitter::{Address, persistent, publish};
use super::{confirmed_channel, connect, fresh_queue};

pub const ADDRESS: Address = Address {
    exchange: "",
    key: "bench.tasks",
    reply_to: "bench.results",
};

/// The slots. Dropping it ends them.
pub struct Raw {
    _slots: JoinSet<anyhow::Result<()>>,
    _connections: [Connection; 2],
}

impl Raw {
    /// Declares the queues and starts the slots in this process.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn start(url: &str, slots: usize) -> anyhow::Result<Self> {
        let (consuming, publishing) = (connect(url).await?, connect(url).await?);
        let declare = consuming.create_channel().await?;
        for queue in [ADDRESS.key, ADDRESS.reply_to] {
            fresh_queue(&declare, queue).await?;
        }
        let mut running = JoinSet::new();
        for _ in 0..slots {
            let channel = consuming.create_channel().await?;
            channel.basic_qos(1, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            let consumer = channel
                .basic_consume(
                    ADDRESS.key.into(),
                    "".into(),
                    options,
                    FieldTable::default(),
                )
                .await?;
            running.spawn(slot(consumer, confirmed_channel(&publishing).await?));
        }
        Ok(Self {
            _slots: running,
            _connections: [consuming, publishing],
        })
    }
}

async fn slot(mut tasks: Consumer, results: Channel) -> anyhow::Result<()> {
    while let Some(delivery) = tasks.next().await {
        let delivery = delivery?;
        let id = delivery
            .properties
            .message_id()
            .as_ref()
            .context("a message without an id")?
            .as_str()
            .to_owned();
        publish(
            &results,
            ("", ADDRESS.reply_to),
            &delivery.data,
            persistent(&id),
        )
        .await?;
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}
