//! Why Graph refuses, where the remedy is known.
//!
//! Guarantees: each reason has a sentence of its own for the caller; Graph's own words stand beside it and are never
//! replaced. What is not known for certain stays [`Reason::Unexplained`].
//!
//! It deliberately looks at Graph's texts, although Microsoft advises against it: Intune has no codes of its own for
//! these refusals. If a text changes some day, the refusal becomes unexplained, nothing worse. Sources: `docs/graph.md`.

use super::{Refusal, permission::Permission};
use crate::domain::FailureCode;

/// The header in which Intune names the approval request that it has filed.
pub(super) const APPROVAL_CODE: &str = "x-msft-approval-code";

/// Why Graph refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// Nothing is known beyond Graph's words.
    #[default]
    Unexplained,
    /// The gateway's application lacks this permission, so all calls of this kind are refused.
    Permission(&'static Permission),
    /// Intune requires an administrator's role for objects of this kind.
    Role,
    /// The tenant requires a second administrator's approval for such changes.
    Approval,
    /// Intune does not accept a group as valid.
    Group,
}

impl Reason {
    /// The reason for a refusal, by its words and by the `approval` that Intune names. The call needs `permission`.
    pub(super) fn of(refusal: &Refusal, approval: Option<&str>, permission: &'static Permission) -> Self {
        let Refusal { status, code, message, .. } = refusal;
        let says = |words: &str| message.contains(words);
        // After a 5xx the effect of a write is unknown, whatever else the answer says.
        let approval = approval.is_some()
            || code == "ApprovalRequired"
            || says("x-msft-approval-justification")
            || says("active Approval Request already exists");
        let barred = *status == 403 || code == "Forbidden";
        let lacking = code == "Authorization_RequestDenied"
            || says("must have one of the following scopes")
            || says("does not have application permissions");
        match () {
            // Never by status: 400, 403, 409 and 412 have been seen.
            () if approval && *status < 500 => Self::Approval,
            () if barred && says("Intune Service Admin") => Self::Role,
            () if barred && lacking => Self::Permission(permission),
            () if says("Invalid GroupId") => Self::Group,
            () => Self::Unexplained,
        }
    }

    /// The failure of an operation that ends for this reason; `otherwise` if nothing more is known.
    pub(super) fn failure(self, otherwise: FailureCode) -> FailureCode {
        match self {
            Self::Unexplained | Self::Permission(_) => otherwise,
            Self::Role => FailureCode::GraphRoleMissing,
            Self::Approval => FailureCode::IntuneApprovalRequired,
            Self::Group => FailureCode::InvalidGroup,
        }
    }

    /// What is wrong and what helps, in one sentence; none if Graph's words must do.
    pub(super) fn sentence(self) -> Option<String> {
        Some(match self {
            Self::Unexplained => return None,
            Self::Permission(Permission { least, purpose, .. }) => format!(
                "the gateway's application lacks the permission {least} in Microsoft Graph, {purpose}; an administrator \
                 must grant it"
            ),
            Self::Role => "Intune lets applications change enrollment restrictions only with an administrator's role; the \
                           Entra role Intune Administrator for the gateway's application may help, which is not proven"
                .to_owned(),
            Self::Approval => "Intune wants a second administrator to approve such a change (Multi Admin Approval); the \
                               gateway has asked for no approval, and nothing was changed; ask the Intune administrators \
                               to exempt enrollment configurations, or to make the change in the portal"
                .to_owned(),
            Self::Group => "Intune does not take a group of the change as a valid one; it may have been deleted, or be of a \
                            kind that cannot be assigned"
                .to_owned(),
        })
    }
}
