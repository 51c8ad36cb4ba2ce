//! A client of memcached that asks by a schedule, whether answers come or not (an open loop): what
//! waits in queues is seen, where a client that waits for each answer would send less.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// The value that is asked for, as the protocol has it ("protocol.txt" of memcached).
const VALUE: [u8; 64] = [b'x'; 64];
const GET: &[u8] = b"get key\r\n";
/// How long a client waits for the next answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks `count` times, `rate` times a second, and prints how many answers came, and after how many
/// microseconds of this clock. The time of an answer counts from when it was due to be asked for.
pub fn ask(address: &str, port: u16, rate: u32, count: u32) -> Result<()> {
    ensure!(rate > 0 && count > 0, "it asks at least once");
    let address: Ipv4Addr = address
        .parse()
        .with_context(|| format!("{address:?} is no IPv4 address"))?;
    let mut stream = TcpStream::connect((address, port))
        .with_context(|| format!("connecting to {address}, port {port}"))?;
    stream.set_nodelay(true).context("switching delays off")?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .context("setting a timeout")?;
    let mut answers = BufReader::new(stream.try_clone().context("duplicating a descriptor")?);
    let set = [b"set key 0 0 64\r\n", &VALUE[..], b"\r\n"].concat();
    stream.write_all(&set).context("storing a value")?;
    ensure!(
        line(&mut answers)? == "STORED",
        "the server does not store a value"
    );
    let period = Duration::from_secs(1) / rate;
    let start = Instant::now() + period;
    let reader = thread::spawn(move || -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        for number in 0..count {
            answer(&mut answers).with_context(|| format!("answer {number} of {count}"))?;
            times.push((start + period * number).elapsed());
        }
        Ok(times)
    });
    let mut late = 0;
    for number in 0..count {
        let due = start + period * number;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        late += u32::from(due.elapsed() > period);
        stream.write_all(GET).context("asking")?;
    }
    let mut times = match reader.join() {
        Ok(times) => times?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    times.sort_unstable();
    let part = |of_thousand: usize| times[(times.len() - 1) * of_thousand / 1000].as_micros();
    println!(
        "ANSWERED {} of {count}, {late} asked late; microseconds: median {}, 99 of 100 {}, most {}",
        times.len(),
        part(500),
        part(990),
        part(1000)
    );
    Ok(())
}

/// Reads an answer, which must have the value.
fn answer(answers: &mut BufReader<TcpStream>) -> Result<()> {
    let begin = line(answers)?;
    ensure!(begin == "VALUE key 0 64", "the server says {begin:?}");
    let mut value = [0; VALUE.len() + 2];
    answers.read_exact(&mut value).context("reading a value")?;
    ensure!(value.starts_with(&VALUE), "another value came back");
    ensure!(line(answers)? == "END", "an answer has no end");
    Ok(())
}

fn line(answers: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    answers.read_line(&mut line).context("reading")?;
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that answers `answers` times.
    fn server(answers: u32) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            line(&mut lines).unwrap();
            line(&mut lines).unwrap();
            stream.write_all(b"STORED\r\n").unwrap();
            for _ in 0..answers {
                assert_eq!(line(&mut lines).unwrap(), "get key");
                let answer = [b"VALUE key 0 64\r\n", &VALUE[..], b"\r\nEND\r\n"].concat();
                stream.write_all(&answer).unwrap();
            }
        });
        port
    }

    #[test]
    fn every_answer_is_waited_for() {
        ask("127.0.0.1", server(50), 1000, 50).unwrap();
        let error = ask("127.0.0.1", server(49), 1000, 50).unwrap_err();
        assert!(
            format!("{error:#}").contains("answer 49 of 50"),
            "{error:#}"
        );
    }
}
