//! A resolver and a name server, as small as the protocol allows.

use std::borrow::Cow;
use std::io;

use simple_dns::rdata::{A, AAAA, MX, RData, TXT};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, ResourceRecord, TYPE};

/// Names and types that the resolver asks for.
pub const QUESTIONS: [(&str, TYPE); 12] = [
    ("postern.example", TYPE::A),
    ("www.postern.example", TYPE::A),
    ("www.postern.example", TYPE::AAAA),
    ("mail.postern.example", TYPE::MX),
    ("a.rather.long.name.in.a.deep.zone.postern.example", TYPE::A),
    (
        "a.rather.long.name.in.a.deep.zone.postern.example",
        TYPE::AAAA,
    ),
    ("text.postern.example", TYPE::TXT),
    ("long-text.postern.example", TYPE::TXT),
    ("x.example", TYPE::A),
    ("cdn.postern.example", TYPE::A),
    ("api.postern.example", TYPE::AAAA),
    ("very-long-text.postern.example", TYPE::TXT),
];

/// The question number `id`, ready to be sent.
pub fn query(id: u16, name: &str, kind: TYPE) -> io::Result<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(
        Name::new(name).map_err(io::Error::other)?,
        QTYPE::TYPE(kind),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    packet
        .build_bytes_vec_compressed()
        .map_err(io::Error::other)
}

/// Checks that `bytes` answer question `id`.
pub fn check_answer(id: u16, bytes: &[u8]) -> io::Result<()> {
    let packet = Packet::parse(bytes).map_err(io::Error::other)?;
    let answers = packet.has_flags(PacketFlag::RESPONSE) && packet.id() == id;
    match answers && !packet.answers.is_empty() {
        true => Ok(()),
        false => Err(io::Error::other(format!("no answer to question {id}"))),
    }
}

/// The name server's answer to `query`: made up, but always the same, and longer for some names.
pub fn answer(query: &[u8]) -> io::Result<Vec<u8>> {
    let query = Packet::parse(query).map_err(io::Error::other)?;
    let mut reply = Packet::new_reply(query.id());
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_DESIRED);
    for question in &query.questions {
        let name = question.qname.clone();
        let length = name.to_string().len();
        let records = match question.qtype {
            QTYPE::TYPE(TYPE::A) => (1..=1 + length as u32 % 4)
                .map(|host| {
                    RData::A(A {
                        address: 0x0a00_0200 | host,
                    })
                })
                .collect(),
            QTYPE::TYPE(TYPE::AAAA) => vec![RData::AAAA(AAAA {
                address: 0x2001_0db8 << 96 | length as u128,
            })],
            QTYPE::TYPE(TYPE::MX) => vec![RData::MX(MX {
                preference: 10,
                exchange: Name::new("mail.postern.example").map_err(io::Error::other)?,
            })],
            QTYPE::TYPE(TYPE::TXT) => vec![RData::TXT(text(&name.to_string())?)],
            _ => vec![],
        };
        let records = records.into_iter();
        reply
            .answers
            .extend(records.map(|data| ResourceRecord::new(name.clone(), CLASS::IN, 300, data)));
        reply.questions.push(question.clone());
    }
    reply.build_bytes_vec_compressed().map_err(io::Error::other)
}

/// One string of text for every "long" in the name, and one more.
fn text(name: &str) -> io::Result<TXT<'static>> {
    let strings = match name {
        _ if name.starts_with("very-long") => 5,
        _ if name.starts_with("long") => 2,
        _ => 1,
    };
    let mut text = TXT::new();
    for n in 0..strings {
        let string: Cow<str> = Cow::Owned(format!("v=postern{n} {}", "abcdefghij ".repeat(20)));
        text.add_char_string(string.into_owned().try_into().map_err(io::Error::other)?);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_has_an_answer_that_fits_one_frame() {
        for (id, (name, kind)) in (1..).zip(QUESTIONS) {
            let reply = answer(&query(id, name, kind).unwrap()).unwrap();
            check_answer(id, &reply).unwrap();
            assert!(check_answer(id + 1, &reply).is_err());
            assert!(reply.len() <= 1472, "{name}: {} bytes", reply.len());
        }
    }

    #[test]
    fn garbage_is_refused() {
        assert!(answer(&[0xff; 40]).is_err());
    }
}
