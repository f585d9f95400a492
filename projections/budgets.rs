//! The budgets that are set.

use theazo_domain::Event;
use theazo_domain::budget::Scope;

use crate::table::{optional, text};
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// A row a budget.
pub(crate) struct Budgets;

static TABLE: Table = Table {
    name: "budgets",
    key: &[Column::text("owner")],
    columns: &[
        Column::text("scope"),
        Column::text("user_id"),
        // In cents.
        Column::integer("amount"),
        Column::text("period"),
        Column::json("thresholds"),
        Column::text("action"),
        Column::integer("rank"),
        Column::time("updated_at"),
    ],
};

impl Projection for Budgets {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn version(&self) -> i32 {
        1
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        let owner = |organization: &dyn ToString, user: Option<&dyn ToString>| {
            vec![text(user.map_or_else(|| organization.to_string(), ToString::to_string))]
        };
        match happened.event {
            Event::BudgetSet(set) => {
                let user = set.user_id.map(text);
                let scope = if user.is_some() { Scope::User } else { Scope::Organization };
                let rank = if user.is_some() { happened.position } else { i64::MAX };
                let budget = &set.budget;
                let thresholds: Vec<String> = budget.thresholds.iter().map(ToString::to_string).collect();
                let values = vec![
                    text(scope.as_str()),
                    optional(user),
                    Value::Integer(budget.limit.amount),
                    text(budget.limit.period.as_str()),
                    Value::Json(format!("[{}]", thresholds.join(","))),
                    text(budget.action.as_str()),
                    Value::Integer(rank),
                    Value::Time(happened.at),
                ];
                let user = set.user_id.as_ref().map(|user| user as &dyn ToString);
                changes.put(&TABLE, owner(&set.organization_id, user), values);
            }
            Event::BudgetRemoved(removed) => {
                let user = removed.user_id.as_ref().map(|user| user as &dyn ToString);
                changes.delete(&TABLE, owner(&removed.organization_id, user));
            }
            _ => {}
        }
    }
}
