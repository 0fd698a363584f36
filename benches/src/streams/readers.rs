//! The other side: many streams, read by one thread that looks at nothing but the end of what it reads.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::server::Server;

/// Long enough for the last frame and what follows it.
const TAIL: usize = 256;

#[derive(Debug)]
pub(crate) struct Readers {
    streams: Vec<TcpStream>,
}

impl Readers {
    /// Opens so many streams, one after the other, each until its answer has begun.
    pub(crate) fn subscribe(server: &Server, count: u32) -> Self {
        let open = |_| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            let (host, bearer) = (server.address, &server.bearer);
            let request =
                format!("GET /v1/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: {bearer}\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
            stream
        };
        Self { streams: (0..count).map(open).collect() }
    }

    /// Reads until each stream has had the last of so many events. Each read is shown to `see`.
    pub(crate) fn read_all(&mut self, events: u32, mut see: impl FnMut(&[u8])) {
        let last = format!("-{events}\nevent: ").into_bytes();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        for (place, stream) in self.streams.iter().enumerate() {
            stream.set_nonblocking(true).unwrap();
            epoll::add(&epoll, stream.as_fd(), EventData::new_u64(place as u64), EventFlags::IN).unwrap();
        }
        let mut tails = vec![Vec::with_capacity(2 * TAIL); self.streams.len()];
        let mut left = self.streams.len();
        let mut buffer = vec![0; 256 * 1024];
        let mut ready = Vec::with_capacity(1024);
        while left > 0 {
            ready.clear();
            epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut ready), None).unwrap();
            for event in &ready {
                let place = usize::try_from(event.data.u64()).unwrap();
                let length = match self.streams[place].read(&mut buffer) {
                    Ok(0) => panic!("a stream ended early"),
                    Ok(length) => length,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                    Err(error) => panic!("{error}"),
                };
                see(&buffer[..length]);
                let tail: &mut Vec<u8> = &mut tails[place];
                let news = &buffer[length.saturating_sub(TAIL)..length];
                tail.drain(..tail.len().saturating_sub(TAIL));
                tail.extend_from_slice(news);
                if tail.windows(last.len()).any(|part| part == last) {
                    epoll::delete(&epoll, self.streams[place].as_fd()).unwrap();
                    left -= 1;
                }
            }
        }
    }
}
