use super::super::flow_file::read;
use super::*;

/// Returns a writer with an empty file, whose thread is the test.
fn writer(path: &Path, shards: usize) -> (Writer, Receiver<Message>) {
    let (messages, incoming) = mpsc::channel();
    let queue = Queue {
        messages,
        waiting: Arc::default(),
        has_lost: Arc::default(),
        spare: Arc::default(),
    };
    let mut writer = Writer::new(path.to_owned(), State::default(), shards, queue);
    writer.begin_file();
    (writer, incoming)
}

impl Writer {
    /// Takes all messages in the queue and writes them.
    fn work(&mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.try_recv() {
            assert!(self.take(message));
        }
        self.write();
    }

    fn sender(&self, shard: usize) -> Sender {
        Sender {
            queue: self.queue.clone(),
            shard,
        }
    }
}

/// The record of a new flow.
fn opened(number: usize) -> Record {
    let port = 1024 + number;
    let json = format!(
        r#"{{"Opened": {{"flow": {{"protocol": "udp", "inside": "10.8.0.11:{port}",
        "remote": "192.168.77.10:53"}}, "outside": "192.168.77.2:{port}", "forwarded": false}}}}"#
    );
    serde_json::from_str(&json).unwrap()
}

/// Returns the number of flows in the file, if there is one.
fn flows_in(path: &Path) -> Option<usize> {
    Some(read(path).unwrap()?.state.flow_count())
}

#[test]
fn changes_are_in_the_file_after_each_write() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vcg0.flows");
    let (mut writer, messages) = writer(&path, 2);
    assert_eq!(flows_in(&path), Some(0));
    for number in 0..4 {
        writer.sender(number % 2).send(vec![opened(number)]);
        writer.work(&messages);
        assert_eq!(flows_in(&path), Some(number + 1));
    }
    assert_eq!(writer.queue.waiting.load(Relaxed), 0);
}

#[test]
fn shards_get_the_buffers_of_written_batches_again_but_no_large_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, messages) = writer(&dir.path().join("vcg0.flows"), 1);
    let sender = writer.sender(0);
    let mut records = Vec::with_capacity(100);
    records.push(opened(0));
    sender.send(records);
    sender.send((0..=MAX_SPARE_CAPACITY).map(opened).collect());
    writer.work(&messages);
    assert_eq!(sender.buffer().capacity(), 100);
    assert_eq!(sender.buffer().capacity(), 0);
}

#[test]
fn a_file_that_has_grown_begins_again_with_the_same_flows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vcg0.flows");
    let (mut writer, messages) = writer(&path, 1);
    let sender = writer.sender(0);
    let len = || path.metadata().unwrap().len();
    let records: Vec<_> = (0..1000).map(opened).collect();
    let mut longest = 0;
    for _ in 0..40 {
        sender.send(records.clone());
        writer.work(&messages);
        longest = longest.max(len());
    }
    assert_eq!(flows_in(&path), Some(1000));
    assert!(longest < 2 << 20, "{longest}");
}

#[test]
fn when_changes_were_lost_all_shards_are_asked_and_older_ones_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vcg0.flows");
    let (mut writer, messages) = writer(&path, 2);
    let (asked, requests) = mpsc::channel();
    writer.request = Some(Box::new(move || asked.send(()).unwrap()));
    let [first, second] = [0, 1].map(|shard| writer.sender(shard));
    first.send((0..MAX_WAITING).map(|_| opened(0)).collect());
    second.send(vec![opened(1)]);
    assert!(writer.queue.has_lost.load(Relaxed));
    writer.work(&messages);
    assert!(requests.try_recv().is_ok());
    assert_eq!(flows_in(&path), None, "it would tell of flows that ended");
    second.send(vec![opened(2)]);
    first.send_snapshot(vec![opened(3), opened(4)]);
    first.send(vec![opened(5)]);
    writer.work(&messages);
    assert_eq!(flows_in(&path), None);
    second.send_snapshot(vec![opened(6)]);
    writer.work(&messages);
    assert_eq!(flows_in(&path), Some(4));
    assert!(requests.try_recv().is_err());
}

#[test]
fn a_file_that_cannot_be_written_is_removed_and_complete_when_there_is_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("folder/vcg0.flows");
    let (mut writer, messages) = writer(&path, 1);
    assert!(writer.file.is_none() && writer.is_failing);
    writer.sender(0).send(vec![opened(1)]);
    writer.work(&messages);
    fs::create_dir(dir.path().join("folder")).unwrap();
    writer.work(&messages);
    assert_eq!(flows_in(&path), None, "it is not tried at once");
    writer.retry_at = Instant::now();
    writer.work(&messages);
    assert_eq!(flows_in(&path), Some(1));
    assert!(!writer.is_failing);
    // An error of the open file.
    writer.file.as_mut().unwrap().refuse_writes(&path);
    writer.sender(0).send(vec![opened(2)]);
    writer.work(&messages);
    assert_eq!(flows_in(&path), None);
    writer.retry_at = Instant::now();
    writer.work(&messages);
    assert_eq!(flows_in(&path), Some(2));
}

#[test]
fn the_last_snapshot_replaces_all_or_only_what_did_not_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vcg0.flows");
    for (complete, flows) in [(true, 1), (false, 2)] {
        let journal = FlowJournal::start(path.clone(), State::default(), 2).unwrap();
        journal.sender(1).send(vec![opened(1)]);
        journal.stop(vec![opened(2)], complete);
        assert_eq!(flows_in(&path), Some(flows));
    }
}
