"""The second port: health, stats, live sessions, /metrics, shutdown (aiohttp).

Owns what an operator and a probe see of a running sidecar. It asks an `AdminView` for everything and holds no
state; it never touches the data port, the upstream or the collector.
"""

from sidecar.admin.routes import create_admin_app, create_health_app, create_page_app
from sidecar.admin.serve import Port, serve
from sidecar.admin.view import (
    ActiveRequest,
    AdminView,
    ConversationView,
    Figures,
    RecentRequest,
    RequestCounts,
    Running,
    RunningRequest,
    SessionCounts,
    SessionDetail,
    SessionView,
    Stats,
)

__all__ = [
    "ActiveRequest",
    "AdminView",
    "ConversationView",
    "Figures",
    "Port",
    "RecentRequest",
    "RequestCounts",
    "Running",
    "RunningRequest",
    "SessionCounts",
    "SessionDetail",
    "SessionView",
    "Stats",
    "create_admin_app",
    "create_health_app",
    "create_page_app",
    "serve",
]
