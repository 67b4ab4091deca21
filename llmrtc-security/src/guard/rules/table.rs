//! What counts, and how much. Weights are log-odds: they add up, and [`BIAS`] has to be overcome.

use super::{Reason, lexicon::Concepts as C};

/// The log-odds of a text without any trait: one in fifty-five.
pub(super) const BIAS: f32 = -4.0;

/// Words of one sentence in this order.
pub(super) struct Sequence {
    pub(super) reason: Reason,
    pub(super) weight: f32,
    /// Added when the text came from a document or a tool: nobody is entitled to say it there.
    pub(super) indirect: f32,
    /// Each concept with the most words that may stand between it and the one before.
    pub(super) steps: &'static [(C, u8)],
    /// Concepts that must not stand between the steps, nor follow within three words of the last.
    pub(super) without: C,
    /// Only at the start of a sentence, with nothing but a lead-in before it.
    pub(super) commands: bool,
}

const fn seq(reason: Reason, weight: f32, indirect: f32, steps: &'static [(C, u8)]) -> Sequence {
    Sequence {
        reason,
        weight,
        indirect,
        steps,
        without: C::NONE,
        commands: false,
    }
}

impl Sequence {
    const fn without(mut self, without: C) -> Self {
        self.without = without;
        self
    }

    const fn commands(mut self) -> Self {
        self.commands = true;
        self
    }
}

/// All that a model was told, by whatever name.
const TOLD: C = C::INSTRUCTIONS.or(C::NORMS).or(C::SYSTEM_PROMPT);
/// To stop following or to drop.
const STOP: C = C::OVERRIDE.or(C::CANCEL);
/// Words that make it all of it, or the listener's.
const WHOLE: C = C::ALL.or(C::YOUR);

pub(super) const SEQUENCES: &[Sequence] = &[
    // "Ignore all previous instructions": the order of words differs between languages.
    seq(
        Reason::Override,
        5.6,
        0.5,
        &[(STOP, 0), (C::PRIOR, 5), (TOLD, 3)],
    ),
    seq(
        Reason::Override,
        5.6,
        0.5,
        &[(STOP, 0), (TOLD, 5), (C::PRIOR.or(C::TOLD), 3)],
    ),
    seq(
        Reason::Override,
        4.8,
        0.5,
        &[(C::PRIOR, 0), (TOLD, 2), (STOP, 6)],
    ),
    seq(
        Reason::Override,
        4.8,
        0.5,
        &[(TOLD, 0), (C::PRIOR.or(C::TOLD), 2), (STOP, 6)],
    ),
    seq(
        Reason::Override,
        4.6,
        0.5,
        &[(STOP, 0), (WHOLE, 3), (TOLD, 3)],
    ),
    seq(
        Reason::Override,
        4.3,
        0.5,
        &[(WHOLE, 0), (TOLD, 2), (C::OVERRIDE, 4)],
    ),
    seq(Reason::Override, 2.7, 0.8, &[(C::OVERRIDE, 0), (TOLD, 4)]),
    // "Forget everything you were told", "everything above".
    seq(
        Reason::Override,
        4.6,
        0.5,
        &[(C::OVERRIDE, 0), (C::ALL.or(C::ASK), 2), (C::TOLD, 5)],
    )
    .without(C::MY),
    seq(
        Reason::Override,
        4.2,
        0.5,
        &[(C::OVERRIDE, 0), (C::ABOVE, 4)],
    ),
    seq(
        Reason::Override,
        3.2,
        0.5,
        &[(C::OVERRIDE, 0), (C::TOLD, 6)],
    )
    .without(C::MY),
    seq(
        Reason::Override,
        4.1,
        0.3,
        &[(C::OVERRIDE, 0), (C::ALL, 2), (C::PRIOR, 4)],
    )
    .without(C::MY.or(C::EVERYDAY)),
    seq(
        Reason::Override,
        4.7,
        0.5,
        &[(C::OVERRIDE, 0), (C::ALL, 2), (C::PRIOR, 3), (C::TASKS, 3)],
    )
    .without(C::MY),
    seq(
        Reason::Override,
        4.7,
        0.5,
        &[(C::OVERRIDE, 0), (C::ALL, 2), (C::TASKS, 3), (C::PRIOR, 3)],
    )
    .without(C::MY),
    seq(
        Reason::Override,
        3.8,
        0.5,
        &[(C::OVERRIDE, 0), (C::PRIOR, 4), (C::TASKS, 3)],
    )
    .without(C::MY.or(C::EVERYDAY)),
    seq(
        Reason::Override,
        3.8,
        0.5,
        &[(C::OVERRIDE, 0), (C::TASKS, 4), (C::PRIOR, 2)],
    )
    .without(C::MY.or(C::EVERYDAY)),
    seq(
        Reason::Override,
        3.6,
        0.5,
        &[(C::OVERRIDE, 0), (C::ALL, 2), (C::TASKS, 3)],
    )
    .without(C::MY.or(C::EVERYDAY)),
    seq(Reason::Override, 1.8, 0.5, &[(C::OVERRIDE, 0), (C::ALL, 1)]).without(C::EVERYDAY),
    // "New instructions:".
    seq(Reason::NewTask, 1.9, 1.2, &[(C::NEW_TASK, 0)]),
    seq(
        Reason::NewTask,
        3.0,
        1.2,
        &[(C::NEW_TASK, 0), (C::SAY.or(C::REVEAL).or(C::PERSONA), 5)],
    ),
    seq(
        Reason::NewTask,
        3.0,
        1.0,
        &[(C::OVERRIDE, 0), (C::NEW_TASK, 8)],
    ),
    // "Show me your system prompt".
    seq(
        Reason::PromptExtraction,
        4.8,
        0.3,
        &[(C::REVEAL, 0), (C::SYSTEM_PROMPT, 6)],
    )
    .without(C::TOPIC),
    seq(
        Reason::PromptExtraction,
        4.2,
        0.3,
        &[(C::REVEAL, 0), (C::SYSTEM_PROMPT, 8)],
    )
    .without(C::TOPIC.or(C::EVERYDAY)),
    seq(
        Reason::PromptExtraction,
        4.4,
        0.3,
        &[(C::ASK, 0), (C::SYSTEM_PROMPT, 4)],
    )
    .without(C::TOPIC.or(C::EVERYDAY).or(C::ABOUT)),
    seq(
        Reason::PromptExtraction,
        4.4,
        0.3,
        &[(C::REVEAL, 0), (C::YOUR, 3), (C::INSTRUCTIONS, 3)],
    )
    .without(C::TOPIC.or(C::EVERYDAY)),
    seq(
        Reason::PromptExtraction,
        2.6,
        0.3,
        &[(C::REVEAL, 0), (C::YOUR, 3), (C::NORMS, 3)],
    )
    .without(C::TOPIC.or(C::EVERYDAY)),
    seq(
        Reason::PromptExtraction,
        4.3,
        0.3,
        &[(C::REVEAL, 0), (C::ABOVE, 5)],
    )
    .without(C::EVERYDAY),
    seq(
        Reason::PromptExtraction,
        4.1,
        0.3,
        &[(C::ASK, 0), (C::ABOVE, 3)],
    )
    .without(C::EVERYDAY.or(C::TOPIC)),
    seq(
        Reason::PromptExtraction,
        4.4,
        0.3,
        &[(C::REVEAL.or(C::ASK), 0), (TOLD, 6), (C::TOLD, 3)],
    )
    .without(C::EVERYDAY),
    seq(
        Reason::PromptExtraction,
        4.1,
        0.3,
        &[(C::ASK, 0), (C::TOLD, 3)],
    )
    .without(C::EVERYDAY.or(C::MY).or(C::TOPIC)),
    seq(
        Reason::PromptExtraction,
        4.2,
        0.3,
        &[(C::REVEAL, 0), (C::PRIOR, 4), (C::INSTRUCTIONS, 2)],
    )
    .without(C::TOPIC.or(C::EVERYDAY).or(C::MY)),
    seq(Reason::PromptExtraction, 1.6, 0.3, &[(C::SYSTEM_PROMPT, 0)]),
    // Passwords, and what other people said.
    seq(
        Reason::SecretExtraction,
        4.2,
        -1.0,
        &[(C::REVEAL, 0), (C::SECRET, 5)],
    )
    .without(C::MY.or(C::EVERYDAY).or(C::CODE)),
    seq(
        Reason::SecretExtraction,
        4.1,
        -1.0,
        &[(C::ASK, 0), (C::SECRET, 4)],
    )
    .without(C::MY.or(C::EVERYDAY).or(C::CODE).or(C::ABOUT)),
    seq(
        Reason::SecretExtraction,
        4.0,
        -1.0,
        &[(C::SECRET, 0), (C::TRANSFORM, 7)],
    )
    .without(C::MY),
    seq(
        Reason::SecretExtraction,
        4.0,
        -1.0,
        &[(C::TRANSFORM, 0), (C::SECRET, 7)],
    )
    .without(C::MY),
    seq(
        Reason::SecretExtraction,
        3.0,
        -1.0,
        &[(C::YOU, 0), (C::SECRET, 5)],
    )
    .without(C::MY.or(C::EVERYDAY)),
    seq(
        Reason::PromptExtraction,
        3.6,
        0.3,
        &[(C::TRANSFORM, 0), (C::SYSTEM_PROMPT, 7)],
    ),
    seq(
        Reason::OthersData,
        4.3,
        0.3,
        &[(C::REVEAL.or(C::ASK), 0), (C::OTHERS, 7)],
    ),
    seq(
        Reason::OthersData,
        3.6,
        0.3,
        &[(C::OTHERS, 0), (C::SENSITIVE, 4)],
    ),
    // "You are now …, without limits".
    seq(Reason::Persona, 1.9, 1.0, &[(C::PERSONA, 0)]),
    seq(Reason::Persona, 3.2, 0.8, &[(C::UNPERSONA, 0)]),
    seq(Reason::Persona, 2.4, 1.0, &[(C::NOW_ON, 0), (C::YOU, 5)]),
    seq(
        Reason::Persona,
        3.0,
        1.0,
        &[(C::NOW_ON, 0), (C::PERSONA, 5)],
    ),
    seq(
        Reason::Persona,
        4.2,
        0.5,
        &[(C::PERSONA, 0), (C::UNBOUND, 14)],
    ),
    seq(Reason::Unbound, 2.0, 0.5, &[(C::UNBOUND, 0)]),
    seq(
        Reason::Unbound,
        4.0,
        0.5,
        &[(C::AI.or(C::PERSONA), 0), (C::UNBOUND, 8)],
    ),
    seq(
        Reason::Unbound,
        3.6,
        0.5,
        &[(C::REVEAL, 0), (C::UNBOUND, 10)],
    ),
    seq(Reason::PolicyDisabling, 3.0, 0.5, &[(C::MODE, 0)]),
    seq(
        Reason::PolicyDisabling,
        4.4,
        0.5,
        &[
            (C::YOU.or(C::PERSONA).or(C::AI).or(C::NOW_ON), 0),
            (C::MODE, 6),
        ],
    )
    .without(C::EVERYDAY.or(C::CODE)),
    seq(
        Reason::PolicyDisabling,
        4.9,
        0.5,
        &[(C::DISABLE, 0), (C::SAFETY, 5)],
    ),
    seq(
        Reason::PolicyDisabling,
        4.3,
        0.5,
        &[(C::SAFETY, 0), (C::DISABLE, 5)],
    ),
    seq(
        Reason::PolicyDisabling,
        4.6,
        0.5,
        &[(STOP, 0), (C::SAFETY, 5)],
    ),
    seq(
        Reason::PolicyDisabling,
        4.3,
        0.5,
        &[(C::PERSONA, 0), (C::SAFETY, 6)],
    ),
    seq(Reason::PolicyDisabling, 1.5, 0.0, &[(C::SAFETY, 0)]),
    seq(Reason::Compliance, 1.3, 0.8, &[(C::COMPLY, 0)]),
    seq(Reason::Furniture, 1.3, 0.3, &[(C::FURNITURE, 0)]),
    // Answers in prescribed words.
    seq(Reason::Prescribed, 1.3, 1.4, &[(C::SAY, 0)]),
    seq(Reason::Prescribed, 3.6, 1.0, &[(C::TROPHY, 0)]),
    seq(
        Reason::Prescribed,
        4.6,
        1.0,
        &[(C::SAY.or(C::REVEAL), 0), (C::TROPHY, 8)],
    ),
    // Claims to be in charge. The claim alone is no attack; what it is followed by is.
    seq(Reason::Authority, 1.4, 0.8, &[(C::AUTHORITY, 0)]),
    // Another author.
    seq(Reason::Forgery, 3.0, 0.9, &[(C::FORGERY, 0)]),
    seq(
        Reason::Forgery,
        4.2,
        0.5,
        &[
            (C::FORGERY, 0),
            (
                TOLD.or(C::YOU)
                    .or(C::OVERRIDE)
                    .or(C::REVEAL)
                    .or(C::NEW_TASK)
                    .or(C::MODE),
                6,
            ),
        ],
    )
    .without(C::EVERYDAY),
    seq(Reason::SpokenRole, 3.4, 0.5, &[(C::ROLE, 0), (C::COLON, 1)]),
    seq(
        Reason::SpokenRole,
        4.2,
        0.5,
        &[
            (C::ROLE, 0),
            (C::COLON, 1),
            (
                C::YOU
                    .or(C::OVERRIDE)
                    .or(C::REVEAL)
                    .or(C::PERSONA)
                    .or(C::MODE),
                4,
            ),
        ],
    ),
    seq(
        Reason::SpokenRole,
        3.6,
        0.5,
        &[(C::COLON, 0), (C::ROLE, 3), (C::COLON, 3)],
    ),
    seq(
        Reason::SpokenRole,
        3.6,
        0.5,
        &[(C::COLON, 0), (C::COLON, 3)],
    ),
    // To the model that reads along.
    seq(Reason::AddressesModel, 2.2, 1.9, &[(C::ADDRESSING, 0)]),
    seq(Reason::ConcealFromUser, 2.4, 2.0, &[(C::CONCEAL, 0)]),
    seq(Reason::PrescribesAnswer, 0.6, 2.2, &[(C::ANSWER, 0)]),
    seq(
        Reason::PrescribesAnswer,
        0.0,
        3.4,
        &[
            (C::ANSWER, 0),
            (C::ADDRESS.or(C::SENSITIVE).or(C::USER), 12),
        ],
    ),
    seq(
        Reason::IndirectCommand,
        0.0,
        3.9,
        &[(C::ACTION, 0), (C::MY.or(C::USER), 5)],
    )
    .commands(),
    seq(
        Reason::IndirectCommand,
        0.0,
        3.0,
        &[(C::ACTION, 0), (C::ADDRESS, 12)],
    )
    .commands(),
    seq(
        Reason::IndirectCommand,
        0.0,
        2.6,
        &[(C::ACTION, 0), (C::DATA.or(C::SENSITIVE), 6)],
    )
    .commands(),
    seq(
        Reason::IndirectCommand,
        0.0,
        3.8,
        &[
            (C::ACTION, 0),
            (C::DATA.or(C::SENSITIVE), 6),
            (C::URGENT, 8),
        ],
    )
    .commands(),
    seq(
        Reason::IndirectCommand,
        0.0,
        4.4,
        &[
            (C::ACTION, 0),
            (C::DATA.or(C::SENSITIVE).or(C::USER), 8),
            (C::ADDRESS, 10),
        ],
    ),
    seq(
        Reason::IndirectCommand,
        1.5,
        2.9,
        &[(C::SEND, 0), (C::DATA, 6), (C::ADDRESS, 8)],
    )
    .without(C::EVERYDAY),
    seq(
        Reason::IndirectCommand,
        0.0,
        3.6,
        &[(C::SEND, 0), (C::SYSTEM_PROMPT.or(C::SECRET), 6)],
    ),
    seq(
        Reason::IndirectCommand,
        0.0,
        3.7,
        &[
            (C::CALL, 0),
            (C::IDENTIFIER, 1),
            (C::ADDRESS.or(C::ANSWER).or(C::DATA), 14),
        ],
    ),
    seq(
        Reason::IndirectCommand,
        0.0,
        3.6,
        &[(C::SEND.or(C::REVEAL), 0), (C::ANSWER, 12)],
    )
    .without(C::EVERYDAY),
    seq(
        Reason::IndirectCommand,
        4.3,
        0.3,
        &[(C::SEND, 0), (C::OTHERS, 6), (C::ADDRESS, 6)],
    ),
    seq(
        Reason::IndirectCommand,
        4.3,
        0.3,
        &[(C::OTHERS.or(C::SECRET), 0), (C::SEND, 8), (C::ADDRESS, 6)],
    ),
    seq(
        Reason::FollowsHidden,
        4.3,
        0.3,
        &[(C::TRANSFORM, 0), (C::OBEY_IT, 9)],
    ),
    seq(
        Reason::Override,
        3.3,
        0.8,
        &[(C::OVERRIDE, 0), (C::USER, 2)],
    ),
    seq(
        Reason::IndirectCommand,
        0.0,
        2.0,
        &[(C::YOU, 0), (C::ACTION, 3), (C::USER, 8)],
    ),
    seq(
        Reason::IndirectCommand,
        0.0,
        1.2,
        &[(C::URGENT, 0), (C::ACTION, 3)],
    ),
];

/// Traits that mean more together, wherever they stand.
pub(super) struct Together {
    pub(super) reason: Reason,
    pub(super) weight: f32,
    pub(super) first: C,
    pub(super) second: C,
}

const fn both(reason: Reason, weight: f32, first: C, second: C) -> Together {
    Together {
        reason,
        weight,
        first,
        second,
    }
}

pub(super) const TOGETHER: &[Together] = &[
    both(Reason::PersonaUnbound, 1.8, C::PERSONA, C::UNBOUND),
    both(Reason::PersonaUnbound, 1.4, C::PERSONA, C::MODE),
    both(Reason::PersonaUnbound, 1.3, C::PERSONA, C::HARM),
    both(Reason::PersonaUnbound, 1.4, C::FICTION, C::UNBOUND),
    both(Reason::FictionHarm, 2.4, C::FICTION, C::HARM),
    both(Reason::FictionHarm, 1.2, C::UNBOUND, C::HARM),
    both(Reason::PersonaComplies, 1.3, C::PERSONA, C::COMPLY),
    both(Reason::PersonaComplies, 1.2, C::COMPLY, C::UNBOUND),
    both(Reason::PersonaComplies, 1.1, C::PERSONA, C::SAY),
    both(Reason::PersonaComplies, 1.4, C::PERSONA, C::FURNITURE),
    both(Reason::PersonaComplies, 1.2, C::NOW_ON, C::SAY),
    both(Reason::AuthorityAsks, 2.6, C::AUTHORITY, C::SYSTEM_PROMPT),
    both(Reason::AuthorityAsks, 2.6, C::AUTHORITY, C::OTHERS),
    both(Reason::AuthorityAsks, 2.6, C::AUTHORITY, C::SECRET),
    both(Reason::AuthorityAsks, 2.4, C::AUTHORITY, C::SAFETY),
    both(Reason::AuthorityAsks, 2.4, C::AUTHORITY, C::MODE),
    both(Reason::AuthorityAsks, 1.6, C::AUTHORITY, C::OVERRIDE),
    both(Reason::AddressesAndSends, 1.6, C::ADDRESSING, C::SEND),
    both(Reason::AddressesAndSends, 1.2, C::ADDRESSING, C::ANSWER),
    both(Reason::AddressesAndSends, 1.6, C::ADDRESSING, C::CONCEAL),
    both(Reason::OverrideSays, 1.5, C::OVERRIDE, C::TROPHY),
    both(Reason::OverrideSays, 1.2, C::OVERRIDE, C::NEW_TASK),
    both(Reason::OverrideSays, 1.0, C::OVERRIDE, C::SAY),
    both(Reason::OverrideSays, 1.0, C::OVERRIDE, C::PERSONA),
];

/// Reasons that everyday talk can have as well, so that its signs count against them.
pub(super) const SOFT: &[Reason] = &[
    Reason::Override,
    Reason::NewTask,
    Reason::Persona,
    Reason::Unbound,
    Reason::PolicyDisabling,
    Reason::Compliance,
    Reason::Furniture,
    Reason::Prescribed,
    Reason::Authority,
    Reason::PromptExtraction,
    Reason::SecretExtraction,
    Reason::PersonaUnbound,
    Reason::PersonaComplies,
    Reason::OverrideSays,
    Reason::FictionHarm,
    Reason::Forgery,
    Reason::SpokenRole,
];

/// What everyday talk looks like, how much it takes away, and from what.
pub(super) const EVERYDAY: &[(C, f32, &[Reason])] = &[
    // "How do I ignore …": whoever asks how does not command.
    (C::HOW_TO, 1.7, SOFT),
    (C::CODE, 1.6, SOFT),
    (C::EVERYDAY, 1.5, SOFT),
    (C::ABOUT, 1.5, SOFT),
    (C::THIRD, 1.5, SOFT),
    // "Ignore my previous instructions": people may take back their own.
    (C::MY, 0.9, &[Reason::Override]),
];

/// The most that everyday talk takes away, so that a mention of the weather does not let an attack through.
pub(super) const MOST_EVERYDAY: f32 = 3.6;
/// Texts longer than this many words mention everything sooner or later; beyond, everyday talk counts for less.
pub(super) const LONG_WORDS: usize = 50;
/// What remains of a trait whose words are all inside quotation marks, when the text around talks about words.
pub(super) const QUOTED_SHARE: f32 = 0.45;
