//! Frames that wait, in a fixed number of places, as many queues as are needed.

use crate::nic::Frame;

/// No place.
const NONE: u32 = u32::MAX;

/// The places.
pub struct Parking {
    places: Vec<(Frame, u32)>,
    free: u32,
    taken: usize,
}

/// Frames of a [`Parking`] in the order of their arrival.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    first: u32,
    last: u32,
    length: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Queue { first: NONE, last: NONE, length: 0 }
    }
}

impl Queue {
    /// How many frames wait here.
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// Whether none waits here.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl Parking {
    /// Room for `frames_max` frames.
    pub fn new(frames_max: usize) -> Parking {
        let nobody = Frame { address: 0, length: 0, port: Default::default() };
        let next = |place: usize| if place + 1 < frames_max { place as u32 + 1 } else { NONE };
        Parking {
            places: (0..frames_max).map(|place| (nobody, next(place))).collect(),
            free: if frames_max > 0 { 0 } else { NONE },
            taken: 0,
        }
    }

    /// Frames that wait in all queues.
    pub fn len(&self) -> usize {
        self.taken
    }

    /// Whether no frame waits.
    pub fn is_empty(&self) -> bool {
        self.taken == 0
    }

    /// Whether no more frames fit.
    pub fn is_full(&self) -> bool {
        self.free == NONE
    }

    /// Adds a frame to the end of `queue`. False, and nothing happens, when there is no room.
    #[must_use]
    pub fn push(&mut self, queue: &mut Queue, frame: Frame) -> bool {
        let place = self.free;
        let Some(taken) = self.places.get_mut(place as usize) else { return false };
        self.free = taken.1;
        *taken = (frame, NONE);
        match self.places.get_mut(queue.last as usize) {
            Some(last) => last.1 = place,
            None => queue.first = place,
        }
        queue.last = place;
        queue.length += 1;
        self.taken += 1;
        true
    }

    /// Takes the first frame out of `queue`.
    pub fn pop(&mut self, queue: &mut Queue) -> Option<Frame> {
        let place = queue.first;
        let left = self.places.get_mut(place as usize)?;
        let frame = left.0;
        queue.first = left.1;
        left.1 = self.free;
        self.free = place;
        queue.length -= 1;
        if queue.first == NONE {
            queue.last = NONE;
        }
        self.taken -= 1;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a1` pushes frame 1 to queue a; `a` pops from it. Shown: `y`, `n` or the frame.
    fn check(steps: &str, expected: &str) {
        let mut parking = Parking::new(3);
        let mut queues = [Queue::default(); 2];
        let mut shown = String::new();
        for step in steps.split_whitespace() {
            let queue = &mut queues[usize::from(step.starts_with('b'))];
            match step[1..].parse() {
                Ok(address) => {
                    let frame = Frame { address, length: 1, port: Default::default() };
                    shown.push(if parking.push(queue, frame) { 'y' } else { 'n' });
                }
                Err(_) => match parking.pop(queue) {
                    Some(frame) => shown.push_str(&frame.address.to_string()),
                    None => shown.push('-'),
                },
            }
        }
        assert_eq!(shown, expected, "{steps}");
        assert_eq!(parking.len(), queues.iter().map(Queue::len).sum::<usize>());
    }

    #[test]
    fn frames_leave_in_order() {
        check("a1 a2 a3 a a a a", "yyy123-");
        check("a1 b2 a3 b a a b", "yyy213-");
        check("a1 b2 a3 b4 a b4 b b b", "yyyn1y24-");
        check("a a1 a a b1 b", "-y1-y1");
    }
}
