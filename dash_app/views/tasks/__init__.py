"""A task suite: many prompts with known answers, run on the page's model."""

from dash_app.shell import Event, View
from dash_app.views.tasks import callbacks
from dash_app.views.tasks.actions import opened
from dash_app.views.tasks.ids import TasksId
from dash_app.views.tasks.layout import layout

VIEW = View(
    "tasks",
    layout,
    callbacks.register,
    (Event(TasksId.DOTS, "clickData", opened),),
)
