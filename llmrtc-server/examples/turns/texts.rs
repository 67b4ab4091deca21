//! What is said. A comma is where a caller pauses; lists are split between training and test by turns.

/// Whole turns without a pause.
pub(crate) const COMPLETE: &[&str] = &[
    "What is the weather like in Berlin today?",
    "I would like to book a table for four people tomorrow evening.",
    "Can you tell me how to get to the station?",
    "My name is Andrew Miller.",
    "Please cancel my order.",
    "Yes, that is right.",
    "How much does it cost?",
    "I have been waiting for three weeks now.",
    "No, thank you.",
    "Could you repeat that for me please?",
    "The second one sounds good.",
    "I need a doctor's appointment on Friday.",
    "Where did you put my luggage?",
    "That was all I wanted to know.",
    "Do you have it in blue?",
    "Let's meet at half past seven.",
    "Turn off the lights in the kitchen.",
    "It stopped working after the last update.",
    "Who won the match last night?",
    "I am calling about my electricity bill.",
];

/// Turns that pause where the words so far are no sentence.
pub(crate) const INCOMPLETE: &[&str] = &[
    "I would like to book a table for, four people tomorrow evening.",
    "Could you tell me whether the, train to Hamburg is late?",
    "I want to fly from Boston to, San Francisco on Monday.",
    "My address is seventeen, Garden Street in Oxford.",
    "The problem is that my, phone does not charge any more.",
    "Can you send it to the, office instead of my home?",
    "When I came back from, holiday the door was open.",
    "I am looking for a present for my, sister who likes music.",
    "If it rains tomorrow we, could meet at the museum.",
    "Please remind me to call, the dentist at nine.",
    "I was wondering if you could, change my password.",
    "What happens when the, battery is empty?",
    "We need at least, twelve chairs for the meeting.",
    "The reason why I am calling is, the invoice from May.",
    "Is there a flight that leaves after, six in the evening?",
    "I have a question about, the second page.",
];

/// Turns that hesitate aloud.
pub(crate) const HESITANT: &[&str] = &[
    "I think, um, the second one is better.",
    "Well, uh, I am not sure about that.",
    "It was on, um, Thursday afternoon.",
    "Can I have the, uh, the large one please?",
    "So, um, what would you recommend?",
    "My name is, um, Peter Brown.",
    "I would say, uh, about two hundred.",
    "The colour was, um, something like green.",
    "We live near, uh, the old harbour.",
    "Could you, um, check that again?",
    "Let me see, um, next Tuesday works.",
    "It costs, uh, forty dollars I think.",
];

/// Digits in groups.
pub(crate) const DIGITS: &[&str] = &[
    "five five five, one two three, four five six seven.",
    "My number is zero one seven, six two nine, three eight four.",
    "It is four four two, eight one nine, six.",
    "The code is nine three, seven one, five two.",
    "Eight hundred, two six four, one one nine zero.",
    "My card ends in four seven, two nine.",
    "six one two, nine nine four, zero three three.",
    "The order is number two two, five eight, one four.",
    "zero four nine, three three seven, one zero two.",
    "It is twenty one, fifteen, forty eight.",
    "seven seven one, four five nine, two two eight six.",
    "The reference is one one, six six, nine two, five.",
];

/// Words that take the floor.
pub(crate) const INTERRUPTIONS: &[&str] = &[
    "Wait, that is not what I meant.",
    "No, I said Tuesday.",
    "Stop talking please.",
    "Actually, can I ask something else?",
    "Hold on a second.",
    "Sorry, I have to stop you there.",
    "That is enough, thank you.",
    "Can you skip to the end?",
    "I did not ask for that.",
    "Wait a minute please.",
    "What about the other one?",
    "Let me say something.",
    "I already know that.",
    "Please speak more slowly.",
    "No no, the blue one.",
    "Excuse me, one question.",
];

/// One word that takes the floor, no longer than a backchannel.
pub(crate) const COMMANDS: &[&str] = &["Stop!", "Wait!", "No!", "Halt!", "Stop it!", "Enough!"];

/// Words of a listener. "Um hum" is what comes nearest to "mm-hm" of what both synthesisers can say.
pub(crate) const BACKCHANNELS: &[&str] = &[
    "Yeah.", "Okay.", "Right.", "Uh huh.", "Um hum.", "Sure.", "Yes.", "Hum.", "I see.", "Oh.",
];
